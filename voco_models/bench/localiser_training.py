"""The localisers of `voco bench localisers`: their training, their boxes, and what both cost."""

from __future__ import annotations

import copy
import dataclasses
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from voco_data.errors import InputError
from voco_data.store import MaskReader, Record, Store
from voco_models.bench.counting import LiveBytes, count_saved
from voco_models.bench.volume_segmentation import ORGAN_VOLUMES, VolumeSegmentation
from voco_models.data import Item, Loader, input_window, step_seed
from voco_models.localisation import Boxes, find_box
from voco_models.objectives import LABELLED, map_name
from voco_models.recorded_options import values_to_record
from voco_models.stages import (
    ProjectionRecipe,
    find_organ_boxes,
    load_networks,
    project,
)
from voco_models.training import Objective, checkpoint, complete_run, fit, make_provenance

STAGE = "bench localisers"
UNET_MULTIPLE = 16
"""Voxels along each axis of a volume of the 3D U-Net are a multiple: it halves them four times."""


@dataclass(frozen=True, slots=True)
class Localiser:
    """The boxes of one localiser in N test series, and its cost; None where it has none."""

    name: str
    seed: int
    boxes: Sequence[Boxes]
    steps: int | None = None
    training_s: float | None = None
    """Time of the training, without reading masks."""
    inference_s: float | None = None
    """Median time from a stored volume to boxes."""
    parameters: int | None = None
    saved_bytes: int | None = None
    """What autograd keeps of a batch of the training, without weights."""
    inference_bytes: int | None = None
    """Largest sum of the tensors that the prediction of one volume makes."""


@dataclass(frozen=True, slots=True)
class Trained:
    """A localiser after its training."""

    name: str
    objective: Objective
    steps: int
    seconds: float
    targets: dict[str, Tensor]
    """Those of a volume, (1, ...) each."""
    batch_size: int
    """Of the training."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What all localisers of one seed have in common."""

    store: Store
    recipe: ProjectionRecipe
    """With the seed, and the number of patients whose masks are learnt from."""
    split: Path
    folder: Path
    """Where the runs of this seed are."""
    test: Sequence[Record]
    device: torch.device


def train_projection(setting: Setting, network: str) -> Localiser:
    """A run of `voco project`, which goes on where an earlier call stopped, and its boxes."""
    recipe = dataclasses.replace(setting.recipe, network=network)
    run = setting.folder / network
    summary = project(
        [str(setting.store.storage)],
        run,
        recipe=recipe,
        split=setting.split,
        resume=(run / checkpoint.CHECKPOINT).exists(),
        device=setting.device,
    )
    objective, _ = load_networks(summary.networks, setting.store)
    objective = objective.to(setting.device)

    def find(record: Record) -> Boxes:
        (boxes,) = find_organ_boxes(objective, recipe, setting.store, [record], setting.device)
        return boxes

    maps = setting.store.read_organ_maps([setting.test[0].row], recipe.organs)
    targets = {
        map_name("coronal"): torch.from_numpy(maps.coronal),
        map_name("sagittal"): torch.from_numpy(maps.sagittal),
        LABELLED: torch.from_numpy(maps.is_known),
    }
    batch_size = min(recipe.batch_size, summary.volumes)
    trained = Trained(network, objective, summary.last_step, summary.seconds, targets, batch_size)
    return measure(setting, trained, find)


@dataclass(frozen=True, slots=True)
class OrganVolumes:
    """Series with masks in 3D, to learn from."""

    rows: list[int]
    """Of the store, ascending."""
    targets: dict[str, Tensor]
    """`ORGAN_VOLUMES` and `LABELLED`."""


def read_organ_volumes(
    masks: MaskReader, records: Sequence[Record], organs: Sequence[str], grid: tuple[int, int, int]
) -> OrganVolumes:
    """The masks of `records` on the grid of their store. Raises InputError if one is not found."""
    known = {record.row: [organ in record.organ_maps for organ in organs] for record in records}
    drawn: dict[int, np.ndarray[Any, Any]] = {}
    for mask in masks.read(list(known), on_grid=True):
        nothing = np.zeros(grid, bool)
        drawn[mask.record.row] = np.stack([mask.on_grid.get(organ, nothing) for organ in organs])
    missing = known.keys() - drawn.keys()
    if missing:
        raise InputError(
            f"archive: it lacks the masks of {len(missing)} of the {len(known)} series that are "
            "learnt from; give the archive that the store was filled from"
        )
    rows = sorted(known)
    return OrganVolumes(
        rows,
        {
            ORGAN_VOLUMES: torch.from_numpy(np.stack([drawn[row] for row in rows])),
            LABELLED: torch.tensor([known[row] for row in rows]),
        },
    )


def train_unet(
    setting: Setting,
    name: str,
    examples: OrganVolumes,
    create: Callable[[Sequence[int], int], nn.Module],
    steps: int,
) -> Localiser:
    """Train MONAI's 3D U-Net for `steps`, and find boxes with it. `create` makes the network.

    Recipe and batches are those of `voco project`. An earlier call that stopped goes on, with the
    steps that it was begun with.
    """
    grid, recipe = setting.store.grid, setting.recipe
    if any(size % UNET_MULTIPLE for size in grid):
        raise InputError(
            f"unet_3d: expected volumes whose sides are multiples of {UNET_MULTIPLE}, got "
            f"{' x '.join(map(str, grid))}; choose other networks"
        )
    run = setting.folder / name
    begun = (run / checkpoint.CHECKPOINT).exists()
    if begun:
        steps = int(checkpoint.read_run(run)["steps"])
    config = dataclasses.replace(
        recipe.fit, total_steps=steps, warmup_steps=min(recipe.fit.warmup_steps, steps)
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(step_seed(config.seed, 0))
        network = create(recipe.widths, len(recipe.organs))
    window = input_window(recipe.window_hu, setting.store.spec)
    objective = VolumeSegmentation(network, recipe.augmentation, window)
    provenance = make_provenance(
        STAGE,
        values_to_record(dataclasses.replace(recipe, fit=config)) | {"network": "unet_3d"},
        [setting.store],
        selection={"rows": examples.rows},
    )
    if not begun:
        checkpoint.write_run(
            run, {"stage": STAGE, "steps": steps, "notes": [], "provenance": provenance}
        )
    loader = Loader(
        [Item(setting.store, row) for row in examples.rows],
        batch_size=min(recipe.batch_size, len(examples.rows)),
        seed=config.seed,
        device=setting.device,
        targets=examples.targets,
    )
    summary = fit(
        objective,
        loader,
        config,
        out=run,
        device=setting.device,
        resume=begun,
        provenance=provenance,
    )
    complete_run(run, checkpoint.read_run(run))
    objective.eval()

    def find(record: Record) -> Boxes:
        volume = torch.from_numpy(setting.store.read(record.row)).to(setting.device)
        coronal, sagittal = objective.predict_maps(volume)
        found = {
            organ: find_box(coronal[i], sagittal[i], record.box_low_mm, record.box_high_mm)
            for i, organ in enumerate(recipe.organs)
        }
        return {organ: box for organ, box in found.items() if box is not None}

    targets = {target: values[:1] for target, values in examples.targets.items()}
    trained = Trained(
        name, objective, summary.last_step, summary.seconds, targets, loader.batch_size
    )
    return measure(setting, trained, find)


def measure(setting: Setting, trained: Trained, find: Callable[[Record], Boxes]) -> Localiser:
    """The boxes of all test series by `find`, one series at a time, and the costs."""
    find(setting.test[0])  # not timed: the first read of a chunk checks it, and buffers are made
    boxes, times = [], []
    for record in setting.test:
        began = time.perf_counter()
        boxes.append(find(record))
        times.append(time.perf_counter() - began)
    with LiveBytes() as live:
        find(setting.test[0])
    return Localiser(
        name=trained.name,
        seed=setting.recipe.fit.seed,
        boxes=boxes,
        steps=trained.steps,
        training_s=trained.seconds,
        inference_s=statistics.median(times),
        parameters=sum(weight.numel() for weight in trained.objective.parameters()),
        saved_bytes=_count_saved_bytes(setting, trained),
        inference_bytes=live.peak,
    )


def _count_saved_bytes(setting: Setting, trained: Trained) -> int:
    """What autograd keeps of a training batch: here, of one volume that is there several times."""
    size = trained.batch_size
    loader = Loader(
        [Item(setting.store, setting.test[0].row)] * size,
        batch_size=size,
        seed=0,
        device=setting.device,
        targets={
            name: values.expand(size, *values.shape[1:]) for name, values in trained.targets.items()
        },
        shuffle=False,
    )
    objective = copy.deepcopy(trained.objective).train()  # a step changes batch norm's statistics
    batch = next(iter(loader.batches_from(0)))
    with count_saved(objective) as saved, setting.recipe.fit.autocast(setting.device):
        objective(batch)
    return saved.total
