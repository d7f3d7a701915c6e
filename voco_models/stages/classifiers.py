"""The classifier of a fine-tuning recipe: its network, its input, and its predictions.

Fine-tuning and `voco predict` share this code, so that both see a volume in the same way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from voco_data.errors import InputError
from voco_data.store import Store
from voco_models.data import (
    InputWindow,
    Item,
    Loader,
    ReducedVolumes,
    ResidentVolumes,
    VolumeSource,
)
from voco_models.networks import SliceSequenceClassifier, create_backbone, find_head, regions_of
from voco_models.objectives import depths_of, explain
from voco_models.stages.finetune_recipes import FinetuneRecipe
from voco_models.stages.organ_box_table import read_organ_boxes
from voco_models.stages.series_geometry import SeriesGeometry, read_geometry, read_records

Weights: TypeAlias = npt.NDArray[np.floating[Any]]
"""float32 of one model, float64 of the mean of several."""


@dataclass(frozen=True, slots=True)
class Explained:
    """What a classifier says of N series, in their order."""

    probabilities: dict[str, Weights]
    """(N, C) by group."""
    attention: dict[str, Weights]
    """Weights (N, Z) of the slices of the recipe's view, by group or region; may be empty."""


def build_classifier(recipe: FinetuneRecipe) -> SliceSequenceClassifier:
    """The classifier of a recipe with random weights, drawn from torch's global generator."""
    return SliceSequenceClassifier(
        create_backbone(recipe.backbone),
        recipe.view.size_px,
        head=recipe.head,
        options=recipe.head_options,
        pooling=recipe.pooling,
        feature_norm=recipe.feature_norm,
        images_per_call=recipe.images_per_call,
        targets=recipe.targets,
        recompute=recipe.recompute,
    )


def input_volumes(recipe: FinetuneRecipe, store: Store) -> VolumeSource:
    """What loaders of a recipe read: averaged volumes, kept in memory, or those of the store."""
    return ReducedVolumes(store, recipe.view) if recipe.view.reduce == "average" else store


def read_head_geometry(
    recipe: FinetuneRecipe, store: Store, rows: Sequence[int], organ_boxes: Path | None = None
) -> SeriesGeometry | None:
    """Depths and organs of `rows`, if the head needs them.

    `organ_boxes` is a table of boxes for series without masks; see `organ_box_table`. Raises
    InputError for a view that the head cannot place, and for boxes that it does not use.
    """
    head = find_head(recipe.head)
    if organ_boxes is not None and not head.keeps_places:
        raise InputError(
            f"{organ_boxes}: the head {recipe.head} does not use boxes of organs; set "
            "head=organ_queries, or leave --organ-boxes out"
        )
    if not head.needs_geometry:
        return None
    if head.keeps_places and not recipe.view.shows_whole_planes(store.grid):
        raise InputError(
            f"recipe: the head {recipe.head} needs whole planes; set view.size_px to "
            f"{store.grid[1]}, or view.reduce to average"
        )
    regions = regions_of(recipe.targets)
    if organ_boxes is None:
        return read_geometry(store, rows, regions)
    uids = {record.series_uid for record in read_records(store, rows)}
    return read_geometry(store, rows, regions, read_organ_boxes(organ_boxes, regions, uids))


def explain_items(
    classifier: SliceSequenceClassifier,
    recipe: FinetuneRecipe,
    items: Sequence[Item],
    window: InputWindow,
    geometry: Mapping[str, Tensor],
    *,
    device: torch.device,
    resident: ResidentVolumes | None = None,
) -> Explained:
    """Probabilities and attention for N `items`, in batches of the recipe's size.

    `geometry` has the tensors of `SeriesGeometry`, or none if the head needs none. Sets the
    classifier to evaluation mode.
    """
    loader = Loader(
        items,
        batch_size=min(recipe.batch_size, len(items)),
        seed=0,
        device=device,
        targets=geometry,
        resident=resident,
    )
    classifier.eval()
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda"):
        batches = [
            explain(
                classifier,
                recipe.view,
                batch.volumes,
                window,
                recipe.flips,
                depths_of(batch.targets, recipe.view),
            )
            for batch in loader.ordered_batches()
        ]
    return Explained(
        probabilities=_join([batch.probabilities for batch in batches]),
        attention=_join([batch.attention for batch in batches]),
    )


def _join(batches: Sequence[Mapping[str, Tensor]]) -> dict[str, Weights]:
    """Arrays of all N series from tensors of batches, on the CPU."""
    return {
        name: torch.cat([batch[name] for batch in batches]).cpu().numpy() for name in batches[0]
    }
