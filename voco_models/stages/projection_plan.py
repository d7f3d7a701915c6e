"""The plan of a run of a 3D-to-2D network: series, targets, first weights and objective.

`make_plan` writes nothing, and raises InputError for inputs that do not fit together.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from voco_data.errors import InputError
from voco_data.selection import SeenPatients, Split
from voco_data.store import OrganMaps, Store, StoreSpec
from voco_models.data import Item, input_window, step_seed
from voco_models.networks import (
    Plane,
    ProjectionNetwork,
    check_projection_grid,
    create_projection_network,
)
from voco_models.objectives import (
    LABELLED,
    PLANES,
    ProjectionObjective,
    ReconstructionObjective,
    SegmentationObjective,
    map_name,
)
from voco_models.recorded_options import values_to_record
from voco_models.stages.initial_weights import SCRATCH
from voco_models.stages.pretrain_plan import open_stores
from voco_models.stages.pretrain_series import PretrainingSeries, select_pretraining_series
from voco_models.stages.projection_images import (
    NO_IMAGE,
    ImageTargets,
    check_images,
    read_image_targets,
)
from voco_models.stages.projection_recipes import ProjectionRecipe
from voco_models.stages.projection_weights import InitialProjection, load_initial_projection
from voco_models.training import make_provenance

STAGE = "project"


@dataclass(frozen=True, slots=True)
class ProjectionPlan:
    """All that a run needs, checked."""

    recipe: ProjectionRecipe
    """The recipe, with a batch of at most all volumes."""
    notes: tuple[str, ...]
    """Deviations from the given recipe, with reasons."""
    stores: list[Store]
    series: PretrainingSeries
    """Series that are learnt from."""
    split: Split | None
    items: list[Item]
    targets: dict[str, Tensor]
    """Of the items, by name; empty if they are computed from the volumes."""
    objective: ProjectionObjective
    seen: SeenPatients | None
    """Patients that the run learns from, and those of its first weights; None if unknown."""
    provenance: dict[str, Any]


def make_plan(
    stores: Sequence[str | Path],
    recipe: ProjectionRecipe,
    *,
    init: str | Path,
    split: Split | None,
    transductive: bool,
    images: str | Path | None = None,
) -> ProjectionPlan:
    """Check that the inputs fit together, and plan a run. Raises InputError if they do not.

    `images` is a folder or a table of second images, for the target `image`.
    """
    check_images(images, recipe.target)
    opened = open_stores(stores)
    check_projection_grid(opened[0].grid)
    chosen = select_pretraining_series(opened, recipe.selection, split, transductive=transductive)
    targets: dict[str, Tensor] = {}
    second: ImageTargets | None = None
    if recipe.target == "organs":
        maps = read_maps(opened, chosen.positions, recipe.organs)
        kept = _choose_masked(chosen, maps.is_known, recipe)
        chosen = _take(chosen, kept, "no mask used")
        targets = _to_targets(maps, kept)
    elif images is not None:
        second = read_image_targets(images, opened, chosen.positions)
        chosen = _take(chosen, second.kept, NO_IMAGE)
        targets = second.targets
    items = [Item(opened[position], row) for position, row in chosen.positions]
    adapted, notes = _adapt_recipe(recipe, len(items))
    initial = load_initial_projection(init, adapted)
    initial.check_seen(opened, split, transductive=transductive)
    seen = initial.add_seen(SeenPatients.of_series(opened, chosen.series))
    return ProjectionPlan(
        recipe=adapted,
        notes=notes if second is None else (*second.notes, *notes),
        stores=opened,
        series=chosen,
        split=split,
        items=items,
        targets=targets,
        objective=build_objective(
            adapted, opened[0].spec, initial, PLANES if second is None else second.planes
        ),
        seen=seen,
        provenance=make_provenance(
            STAGE,
            values_to_record(adapted),
            opened,
            split=chosen.split_digest,
            init=initial.name,
            selection=chosen.describe(),
        )
        | {
            "targets": hash_targets(targets),
            "seen_patients": None if seen is None else seen.digest,
        }
        | ({} if second is None else {"images": second.record}),
    )


def check_projection(
    stores: Sequence[str | Path],
    recipe: ProjectionRecipe,
    split: Split | None,
    images: str | Path | None = None,
) -> None:
    """Raise InputError, as `make_plan`, for a training from scratch that is not possible."""
    make_plan(stores, recipe, init=SCRATCH, split=split, transductive=False, images=images)


def build_objective(
    recipe: ProjectionRecipe,
    spec: StoreSpec,
    initial: InitialProjection | None = None,
    planes: Sequence[Plane] = PLANES,
) -> ProjectionObjective:
    """The objective for stores of `spec`; its fresh weights are a function of the recipe's seed.

    `planes` are those that are trained, for targets other than organs.
    """
    networks = create_networks(recipe, initial)
    window = input_window(recipe.window_hu, spec)
    if recipe.target == "organs":
        return SegmentationObjective(networks, recipe.augmentation, window)
    return ReconstructionObjective(
        networks,
        recipe.augmentation,
        window,
        None if recipe.target == "image" else recipe.target,
        shuffled=recipe.shuffled,
        planes=planes,
    )


def create_networks(
    recipe: ProjectionRecipe, initial: InitialProjection | None = None
) -> dict[Plane, ProjectionNetwork]:
    """The networks of both planes; fresh weights are a function of the recipe's seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(step_seed(recipe.fit.seed, 0))
        networks: dict[Plane, ProjectionNetwork] = {
            plane: create_projection_network(recipe.network, recipe.widths, recipe.channels)
            for plane in PLANES
        }
    if initial is not None:
        initial.load_into({str(plane): network for plane, network in networks.items()})
    return networks


def read_maps(
    stores: Sequence[Store], positions: Sequence[tuple[int, int]], organs: Sequence[str]
) -> OrganMaps:
    """The maps of `organs` in series, each given by the position of its store and its row."""
    parts, order = [], []
    for number, store in enumerate(stores):
        places = [i for i, (position, _) in enumerate(positions) if position == number]
        order += places
        parts.append(store.read_organ_maps([positions[i][1] for i in places], organs))
    back = np.argsort(order)
    return OrganMaps(
        organs=tuple(organs),
        coronal=np.concatenate([part.coronal for part in parts])[back],
        sagittal=np.concatenate([part.sagittal for part in parts])[back],
        is_known=np.concatenate([part.is_known for part in parts])[back],
    )


def _choose_masked(
    chosen: PretrainingSeries, is_known: npt.NDArray[np.bool_], recipe: ProjectionRecipe
) -> list[int]:
    """Positions of the series with a mask, of the first `recipe.masks` patients in a fixed order.

    Raises InputError if there are too few.
    """
    patients = chosen.series["patient_id"].astype(str).tolist()
    masked = np.flatnonzero(is_known.any(axis=1)).tolist()
    if not masked:
        raise InputError(
            f"masks: none of the {len(patients)} series has a mask of {', '.join(recipe.organs)}; "
            "preprocess an archive with masks, see docs/masks.md, or choose other organs"
        )
    order = sorted({patients[i] for i in masked}, key=lambda p: _place(p, recipe.fit.seed))
    if recipe.masks is not None and recipe.masks > len(order):
        raise InputError(
            f"masks: expected at most {len(order)}, the patients with masks, got {recipe.masks}"
        )
    used = set(order[: recipe.masks])
    return [i for i in masked if patients[i] in used]


def _take(chosen: PretrainingSeries, kept: Sequence[int], reason: str) -> PretrainingSeries:
    """Some of the series; the others are left out for `reason`."""
    without = len(chosen.series) - len(kept)
    return dataclasses.replace(
        chosen,
        series=chosen.series.iloc[list(kept)].reset_index(drop=True),
        weights=None if chosen.weights is None else chosen.weights[list(kept)],
        left_out=chosen.left_out | ({reason: without} if without else {}),
    )


def _place(patient: str, seed: int) -> bytes:
    """A place in the order of patients, which does not depend on the other patients."""
    return hashlib.sha256(f"{seed} {patient}".encode()).digest()


def _to_targets(maps: OrganMaps, kept: Sequence[int]) -> dict[str, Tensor]:
    return {
        map_name("coronal"): torch.from_numpy(maps.coronal[kept]),
        map_name("sagittal"): torch.from_numpy(maps.sagittal[kept]),
        LABELLED: torch.from_numpy(maps.is_known[kept]),
    }


def hash_targets(targets: Mapping[str, Tensor]) -> str:
    """A digest, as a run is resumed with the same targets: a mask or an image may change alone."""
    content = hashlib.sha256(json.dumps(sorted(targets)).encode())
    for name in sorted(targets):
        content.update(targets[name].numpy().tobytes())
    return content.hexdigest()


def _adapt_recipe(
    recipe: ProjectionRecipe, volumes: int
) -> tuple[ProjectionRecipe, tuple[str, ...]]:
    """The recipe with a batch of at most all volumes, and a note if it was changed."""
    if volumes >= recipe.batch_size:
        return recipe, ()
    note = f"only {volumes} volumes: the batch size is {volumes} instead of {recipe.batch_size}"
    return dataclasses.replace(recipe, batch_size=volumes), (note,)
