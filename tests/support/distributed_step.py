"""One step of objectives in the processes of `torchrun`: losses and gradients, to a file.

    python distributed_step.py FOLDER [DEVICE]

Each process takes its share of a batch of `BATCH` volumes and writes FOLDER/<processes>-<rank>.pt.
All is computed in float64: in float32, the batch norms of these small networks amplify the rounding
of a sum in another order to some 1e-3 of a gradient.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch

from tests.support.precision import in_float64
from tests.voco_models.objectives.test_voco2d import batch_of, objective_of, teacher_apart
from voco_models.data.augment_crops import IntensityAugment
from voco_models.data.augment_planes import VolumeAugment
from voco_models.data.loader import Batch
from voco_models.objectives.losses import LossOptions
from voco_models.processes import join_processes, n_processes, process_rank
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


def take_step(name: str, device: torch.device) -> dict[str, Any]:
    """Scalars, gradients and buffers after the backward pass of a variant."""
    objective = objective_of(**VARIANTS[name])
    teacher_apart(objective)
    objective.to(device)
    batch = batch_of(BATCH)
    mine = slice(process_rank(), None, n_processes())
    network = distribute(objective)
    scalars = network(Batch(batch.volumes[mine].to(device), batch.items[mine], batch.seed))
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


def main(folder: Path, device: torch.device) -> None:
    """Take a step of every variant."""
    join_processes(device)
    with in_float64():
        steps = {name: take_step(name, device) for name in VARIANTS}
    torch.save(steps, folder / f"{n_processes()}-{process_rank()}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]), torch.device(sys.argv[2] if len(sys.argv) > 2 else "cpu"))
