"""The plan of a pretraining run: its stores, series, recipe, first weights and objective.

`make_plan` writes nothing, and raises InputError for inputs that do not fit together.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from voco_data.errors import InputError
from voco_data.selection import SeenPatients, Split
from voco_data.storage import is_url
from voco_data.store import Store, StoreSpec
from voco_models.data import Item, input_window, step_seed
from voco_models.networks import create_encoder
from voco_models.objectives import Voco2d
from voco_models.recorded_options import values_to_record
from voco_models.stages import place_probe
from voco_models.stages.held_out_patients import hold_out_patients
from voco_models.stages.initial_weights import SCRATCH, InitialWeights, load_initial_weights
from voco_models.stages.pretrain_recipes import PretrainRecipe
from voco_models.stages.pretrain_series import (
    PretrainingSeries,
    check_initial_weights,
    select_pretraining_series,
)
from voco_models.training import make_provenance

STAGE = "pretrain"


@dataclass(frozen=True, slots=True)
class PretrainPlan:
    """All that a pretraining run needs, checked."""

    recipe: PretrainRecipe
    """The recipe, adapted to the number of volumes."""
    notes: tuple[str, ...]
    """Deviations from the given recipe, with reasons."""
    stores: list[Store]
    series: PretrainingSeries
    split: Split | None
    items: list[Item]
    """Volumes to learn from."""
    weights: npt.NDArray[np.float64] | None
    """How often each is drawn; None if equally often."""
    probed: list[Item]
    """Volumes that probes look at, held out from training."""
    probes_places: bool
    """Whether the probes ask for the places of crops: not of a single place, and not of a backbone
    that takes no crops of that size."""
    objective: Voco2d
    seen: SeenPatients | None
    """Patients that the run learns from, and those of its first weights; None if unknown."""
    provenance: dict[str, Any]


def make_plan(
    stores: Sequence[str | Path | Store],
    recipe: PretrainRecipe,
    *,
    init: str | Path,
    split: Split | None,
    transductive: bool,
) -> PretrainPlan:
    """Check that the inputs fit together, and plan a run. Raises InputError if they do not."""
    opened = open_stores(stores)
    chosen = select_pretraining_series(opened, recipe.selection, split, transductive=transductive)
    items = [Item(opened[position], row) for position, row in chosen.positions]
    weights, probed = chosen.weights, list[Item]()
    if recipe.probe_every:
        items, probed, weights = hold_out_patients(opened, items, recipe.probe_fraction, weights)
    adapted, notes = adapt_recipe(recipe, len(items))
    initial = load_initial_weights(init, adapted.backbone)
    check_initial_weights(initial, init, opened, split, transductive=transductive)
    # With the patients held out for probes: choices are made by what is measured on them.
    seen = initial.add_seen(SeenPatients.of_series(opened, chosen.series))
    objective = build_objective(adapted, opened[0].spec, initial)
    # With a grid of 1 a crop is the plane, and has one place.
    probes_places = bool(probed) and adapted.voco.grid > 1
    if probes_places and not place_probe.fits(objective, opened[0].grid[0]):
        probes_places = False
        notes.append(
            f"the probes leave out the places of crops: {adapted.backbone} does not take the "
            "squares that they cut and do not resize"
        )
    provenance = make_provenance(
        STAGE,
        values_to_record(adapted),
        opened,
        split=chosen.split_digest,
        init=None if initial.name == SCRATCH else initial.name,  # as runs before `init` recorded it
        selection=chosen.describe(),
    )
    return PretrainPlan(
        recipe=adapted,
        notes=tuple(notes),
        stores=opened,
        series=chosen,
        split=split,
        items=items,
        weights=weights,
        probed=probed,
        probes_places=probes_places,
        objective=objective,
        seen=seen,
        provenance=provenance
        | {
            "initial_weights": initial.to_json(),
            "seen_patients": None if seen is None else seen.digest,
        },
    )


def check_pretraining(
    stores: Sequence[str | Path | Store], recipe: PretrainRecipe, split: Split | None
) -> None:
    """Raise InputError, as `make_plan`, for a pretraining from scratch that is not possible."""
    make_plan(stores, recipe, init=SCRATCH, split=split, transductive=False)


def open_stores(paths: Sequence[str | Path | Store]) -> list[Store]:
    """Open stores for one training; those that are open already stay as they are.

    Raises InputError if they differ in grid, window or voxel type, if one is empty, and if one is
    given twice.
    """
    if not paths:
        raise InputError("stores: expected at least one store, got none")
    if len({_address(path) for path in paths}) < len(paths):
        raise InputError("stores: the same store was given twice; give each store once")
    stores = [path if isinstance(path, Store) else Store.open(path) for path in paths]
    first = stores[0]
    for store in stores:
        if not len(store):
            raise InputError(
                f"{store.storage}: the store holds no volumes; preprocess series into it"
            )
        for name, expected, actual in (
            ("grid", first.grid, store.grid),
            ("window level", first.spec.window_level_hu, store.spec.window_level_hu),
            ("window width", first.spec.window_width_hu, store.spec.window_width_hu),
            ("quantisation", first.spec.quantisation, store.spec.quantisation),
        ):
            if expected != actual:
                raise InputError(
                    f"{store.storage}: {name} {actual} differs from {expected} of {first.storage}; "
                    "give stores of one spec"
                )
    return stores


def _address(store: str | Path | Store) -> str | Path:
    """The URL of a store, or its folder."""
    path = str(store.storage) if isinstance(store, Store) else store
    return path if is_url(path) else Path(path).resolve()


def adapt_recipe(recipe: PretrainRecipe, volumes: int) -> tuple[PretrainRecipe, list[str]]:
    """The recipe for a number of volumes, and a note on each change. Usually it is unchanged.

    A batch has at most as many volumes as there are. For a single volume, the inter-volume loss is
    off, and the batch is this volume twice with different random crops.
    """
    if volumes >= max(2, recipe.batch_size):
        return recipe, []
    if volumes > 1:
        note = f"only {volumes} volumes: the batch size is {volumes} instead of {recipe.batch_size}"
        return dataclasses.replace(recipe, batch_size=volumes), [note]
    notes = ["only 1 volume: every batch is that volume twice, with different random crops"]
    voco = recipe.voco
    if voco.loss.inter != "off":
        notes.append("only 1 volume: the inter-volume loss is off, it needs two")
        voco = dataclasses.replace(voco, loss=dataclasses.replace(voco.loss, inter="off"))
    return dataclasses.replace(recipe, batch_size=2, voco=voco), notes


def build_objective(
    recipe: PretrainRecipe, spec: StoreSpec, initial: InitialWeights | None = None
) -> Voco2d:
    """The objective for stores of `spec`; its fresh weights are a function of the recipe's seed.

    The backbones of student and teacher start from `initial`. Raises InputError if the backbone
    cannot take the crops.
    """
    plane = spec.grid[1], spec.grid[2]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(step_seed(recipe.fit.seed, 0))
        crop_px = recipe.voco.crop_plan(plane).size
        encoder = create_encoder(recipe.backbone, crop_px, recipe.voco.encoder_options)
        for slices in sorted(recipe.voco.slice_counts(spec.grid[0])):
            encoder.check_slices(slices)
        if initial is not None and initial.weights is not None:
            encoder.backbone.load_state_dict(initial.weights, strict=True)
        objective = Voco2d(encoder, plane, recipe.voco, input_window(None, spec))
    objective.set_recompute(recipe.recompute)
    return objective
