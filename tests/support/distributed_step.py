"""One step of objectives in the processes of `torchrun`: losses and gradients, to a file.

    python distributed_step.py FOLDER

Each process takes its share of a batch of `BATCH` volumes and writes FOLDER/<processes>-<rank>.pt.
All is computed in float64: in float32, the batch norms of these small networks amplify the rounding
of a sum in another order to some 1e-3 of a gradient.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch

from tests.voco_models.objectives.test_voco2d import batch_of, objective_of, teacher_apart
from voco_models.data.augment_crops import IntensityAugment
from voco_models.data.augment_planes import VolumeAugment
from voco_models.data.loader import Batch
from voco_models.objectives.losses import LossOptions
from voco_models.processes import n_processes, process_group, process_rank
from voco_models.training.parallel import distribute

BATCH = 4
VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "all pairs": {"loss": LossOptions(inter="all_pairs")},
    "symmetric, plain": {"loss": LossOptions(form="plain", direction="symmetric"), "target": "iou"},
    "slices": {"level": "slice", "slice_stride": 2, "slices": "separate"},
    "places": {
        "loss": LossOptions(inter="all_pairs", inter_target="overlap", reg="off"),
        "student_crops": "random",
    },
    "legacy": {"teacher": "legacy"},
    "augmented": {
        "augment": IntensityAugment(0.1, 0.1, 0.1, 0.1),
        "volume_augment": VolumeAugment(flip_x=0.5, flip_z=0.5, rotate_deg=10),
    },
}


def take_step(name: str) -> dict[str, Any]:
    """Scalars, gradients and buffers after the backward pass of a variant."""
    objective = objective_of(**VARIANTS[name])
    teacher_apart(objective)
    batch = batch_of(BATCH)
    mine = slice(process_rank(), None, n_processes())
    network = distribute(objective)
    scalars = network(Batch(batch.volumes[mine], batch.items[mine], batch.seed))
    scalars["loss"].backward()
    return {
        "scalars": {key: value.detach() for key, value in scalars.items()},
        "gradients": {
            key: parameter.grad
            for key, parameter in objective.named_parameters()
            if parameter.grad is not None
        },
        "buffers": dict(objective.named_buffers()),
    }


def main(folder: Path) -> None:
    """Take a step of every variant."""
    torch.set_default_dtype(torch.float64)
    torch.Tensor.float = torch.Tensor.double  # type: ignore[method-assign]
    with process_group(torch.device("cpu")):
        torch.save(
            {name: take_step(name) for name in VARIANTS},
            folder / f"{n_processes()}-{process_rank()}.pt",
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
