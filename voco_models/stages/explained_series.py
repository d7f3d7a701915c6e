"""Series of a store as the classifiers of a finished run see them, and their explanations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from voco_data.errors import StoreCorrupt
from voco_data.store import Record, Store, read_record
from voco_models.data import centre, input_window
from voco_models.evaluation import FloatArray
from voco_models.explanation import (
    REPLACEMENTS,
    Replacement,
    boxes_in_view,
    injury_probabilities,
    mean_of_models,
    place_maps,
    slice_effects,
    view_edges_mm,
    without_prior,
)
from voco_models.networks import OrganQueryHead, SliceSequenceClassifier, regions_of
from voco_models.objectives import ORGAN_BOXES, Z_EXTENT
from voco_models.stages.classifiers import Weights, build_classifier, input_volumes
from voco_models.stages.finetune_recipes import FinetuneRecipe
from voco_models.stages.finished_run import FinishedRun
from voco_models.stages.series_geometry import read_geometry

TRAINED, RANDOM = "trained", "random"
WITHOUT_PRIOR = "_without_prior"
"""Ending of the names of variants whose prior is the same everywhere."""


@dataclass(frozen=True, slots=True)
class SeriesInput:
    """One series as the classifier gets it."""

    row: int
    record: Record
    inputs: Tensor
    """float32 (1, Z, Y, X) in [-1, 1], on the device."""
    depths_mm: Tensor
    """(1, Z), on the device, as the classifier gets them."""
    stored: int
    """Slices of the stored volume."""
    slices_z_mm: FloatArray
    """LPS z of the middles of the view's slices, (Z,)."""
    boxes: dict[str, Tensor]
    """Boxes (R, 2, 3) of each group and region, as in `SeriesGeometry`; NaN where unknown."""
    boxes_in_view: dict[str, Tensor]
    """The same, with rows and columns of the view."""

    @property
    def slices_depth_mm(self) -> Tensor:
        """Depths of the middles of the view's slices below the superior end of the box, (Z,)."""
        return torch.from_numpy(self.record.box_high_mm[0] - self.slices_z_mm).float()


@dataclass(frozen=True, slots=True)
class SeriesExplanation:
    """Means over the models of a run, for one series."""

    injury: dict[str, float]
    """Probability of an injury by group."""
    attention: dict[str, Weights]
    """Weights of slices (Z,), by group or region; empty without attention."""
    occlusion: dict[Replacement, dict[str, Weights]]
    """Effects of slices (Z,) by group; see `slice_effects`."""
    maps: dict[str, Tensor]
    """(Z, h, w) by group or region; see `place_maps`."""


def read_inputs(
    run: FinishedRun, store: Store, series: pd.DataFrame, device: torch.device
) -> Iterator[SeriesInput]:
    """The inputs of lines of the store's catalogue, in their order."""
    recipe, targets = run.recipe, run.targets
    volumes = input_volumes(recipe, store)
    window = input_window(recipe.window_hu, store.spec)
    plane_range = recipe.view.plane_range(store.grid)
    regions = regions_of(targets)
    for row in (int(each) for each in series["row"]):
        record = read_record(store.storage, row)
        if record is None:
            raise StoreCorrupt(f"{store.path}: the record of row {row} is missing")
        geometry = read_geometry(store, [row], regions).select([0])
        viewed = recipe.view.make_middle_view(torch.from_numpy(volumes.read(row))[None])
        by_region = dict(zip(regions, geometry[ORGAN_BOXES][0], strict=True))
        names = {region: (region,) for region in regions} | {
            name: regions_of(targets.select([name])) for name in targets.names
        }
        boxes = {name: torch.stack([by_region[r] for r in of]) for name, of in names.items()}
        edges = view_edges_mm(record, recipe.view, store.grid[0])
        yield SeriesInput(
            row=row,
            record=record,
            stored=store.grid[0],
            slices_z_mm=(edges[:-1] + edges[1:]) / 2,
            inputs=centre(window.to_unit(viewed)).to(device),
            depths_mm=recipe.view.depths_mm(geometry[Z_EXTENT]).to(device),
            boxes=boxes,
            boxes_in_view={name: boxes_in_view(box, plane_range) for name, box in boxes.items()},
        )


def explain_series(
    models: Sequence[SliceSequenceClassifier], series: SeriesInput
) -> SeriesExplanation:
    """Probabilities, curves and maps of a series, without flips of the volume."""
    with torch.no_grad():
        outputs = [model.classify(series.inputs, series.depths_mm) for model in models]
    injury = [injury_probabilities(dict(output.logits)) for output in outputs]
    attention = [
        {
            name: (w.sum(dim=2) if w.dim() == 3 else w)[0].double().cpu()
            for name, w in output.attention.items()
        }
        for output in outputs
    ]
    return SeriesExplanation(
        injury={name: float(np.mean([float(p[name]) for p in injury])) for name in injury[0]},
        attention=_mean_curves(attention),
        occlusion={
            replacement: _mean_curves(
                [
                    slice_effects(model, series.inputs, series.depths_mm, replacement)
                    for model in models
                ]
            )
            for replacement in REPLACEMENTS
        },
        maps=explain_places(models, series),
    )


def explain_places(
    models: Sequence[SliceSequenceClassifier], series: SeriesInput
) -> dict[str, Tensor]:
    """Maps (Z, h, w) by group or region: the mean of the models."""
    return mean_of_models([place_maps(model, series.inputs, series.depths_mm) for model in models])


def _mean_curves(curves: Sequence[dict[str, Tensor]]) -> dict[str, Weights]:
    return {
        name: np.mean([np.asarray(each[name], np.float64) for each in curves], axis=0)
        for name in curves[0]
    }


def load_models(run: FinishedRun, device: torch.device) -> list[SliceSequenceClassifier]:
    """The classifiers of all folds, in evaluation mode."""
    return [run.load_classifier(fold).to(device) for fold in range(run.recipe.n_folds)]


def control_models(
    run: FinishedRun, draws: int, device: torch.device
) -> Iterator[tuple[str, list[SliceSequenceClassifier]]]:
    """Names of controls and their models, one per fold; each random one `draws` times.

    `random` has the weights that training starts from, of seeds 0, 1, ..., and batch norm that
    changes nothing. The head `organ_queries` also has the places of organs in the training series.
    They are no learnt weights, so `random` keeps them, and the names that end in `WITHOUT_PRIOR`
    are without them.
    """
    trained = load_models(run, device)
    has_prior = isinstance(trained[0].head, OrganQueryHead)
    for draw in range(draws):
        models = [
            _random_classifier(run.recipe, draw * len(trained) + fold).to(device)
            for fold in range(len(trained))
        ]
        if has_prior:
            for model, like in zip(models, trained, strict=True):
                model.head.get_buffer("prior").copy_(like.head.get_buffer("prior"))
        yield RANDOM, models
        if has_prior:
            yield RANDOM + WITHOUT_PRIOR, [without_prior(model) for model in models]
    if has_prior:
        yield TRAINED + WITHOUT_PRIOR, [without_prior(model) for model in trained]


def _random_classifier(recipe: FinetuneRecipe, seed: int) -> SliceSequenceClassifier:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build_classifier(recipe).eval()
