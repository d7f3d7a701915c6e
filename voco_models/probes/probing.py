"""Probe a frozen backbone: fit on some patients, measure on those left out, fold by fold."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from voco_data.errors import InputError
from voco_models.data import step_seed
from voco_models.networks import Backbone
from voco_models.probes.batch_norm import with_batch_norm_of
from voco_models.probes.features import Question, extract, run_all
from voco_models.probes.folds import Fold
from voco_models.probes.measures import Estimate, ProbeTable, estimate, mean_by_patient
from voco_models.probes.predictors import knn_predict, ridge_predict
from voco_models.probes.rank import effective_rank, rank_me
from voco_models.probes.volumes import ProbedVolume

_CROP_DRAWS, _NORM_DRAWS = 0, 1
"""Streams of random draws."""


@dataclass(frozen=True, slots=True)
class ProbeOptions:
    """What is asked, and how. The defaults are those of docs/probes.md."""

    crop_px: int = 64
    """Side of a crop, in pixels of the store's plane."""
    crops: int = 16
    """Crops per volume, at random places."""
    crop_slice_stride: int = 4
    """A crop's features are averaged over every n-th slice, as in pretraining at level `volume`."""
    position_slice_stride: int = 4
    """Every n-th slice is asked for its position; 0 leaves the question out."""
    neighbours: int = 5
    ridge: float = 0.01
    """Strength of the ridge, see `predictors.ridge_predict`."""
    norm_images: int = 1024
    """Batch norm is re-estimated on at most about so many crops, and as many pixels of slices."""
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.crop_px, self.crops, self.crop_slice_stride, self.neighbours) < 1:
            raise InputError("probe: crops, their size and stride and neighbours are at least 1")
        if self.position_slice_stride < 0 or self.ridge <= 0 or self.norm_images < 2:
            raise InputError(
                "probe: expected a stride of 0 or more, a ridge above 0 and 2 or more images"
            )


DEFAULT_OPTIONS = ProbeOptions()


class _Answers(NamedTuple):
    """One question asked of all volumes."""

    questions: list[Question]
    targets: Tensor
    """float32 (Q, T)."""


def probe(
    backbone: Backbone,
    volumes: Sequence[ProbedVolume],
    folds: Sequence[Fold],
    options: ProbeOptions = DEFAULT_OPTIONS,
    *,
    reestimate: bool = False,
) -> ProbeTable:
    """Errors of the probes on the patients of each fold, fitted on all patients outside it.

    Crop position: (y, x) of the first pixel of a crop, in px. The error is |predicted - true|,
    averaged over the two axes; by chance it is a quarter of the range, 32 px for crops of 64 px in
    a plane of 192 px. From the flattened feature map (`map`) and from its mean (`mean`).
    Slice position: the index of a whole slice in its volume, from the mean of its map; the error is
    |predicted - true| in slices of the grid.
    Side: whether the middle of a crop is left or right of the middle of the plane, from the
    flattened map; the share of right answers.

    The same seed gives the same questions for every backbone. With `reestimate`, batch norm
    statistics are those of the images that the probe is fitted on, never of a patient left out.
    `backbone` is not changed. Raises InputError for a plane that is smaller than a crop.
    """
    original = backbone.eval()
    crops, slices = _ask_crops(volumes, options), _ask_slices(volumes, options)
    found: dict[str, dict[str, float]] = {}
    ranks: list[tuple[float, float]] = []
    frozen: dict[str, tuple[Tensor, Tensor]] = {}
    for fold in folds:
        known = _known(volumes, fold)
        for kind, asked in (("crops", crops), ("slices", slices)):
            if asked is None:
                continue
            if reestimate:
                sample = _sample(asked.questions, known, options)
                network = with_batch_norm_of(
                    original, functools.partial(run_all, volumes=volumes, questions=sample)
                )
                features = extract(network, volumes, asked.questions)
            else:
                if kind not in frozen:
                    frozen[kind] = extract(original, volumes, asked.questions)
                features = frozen[kind]
            fitted = torch.tensor([known[q.volume] for q in asked.questions])
            measure = _measure_crops if kind == "crops" else _measure_slices
            errors = measure(features, asked, fitted, volumes, options)
            owners = [volumes[q.volume].patient for q in asked.questions if not known[q.volume]]
            for name, values in errors.items():
                found.setdefault(name, {}).update(mean_by_patient(values, owners))
            if kind == "crops":
                ranks.append((rank_me(features[1][~fitted]), effective_rank(features[1][~fitted])))
    by_rank = [sum(values) / len(values) for values in zip(*ranks, strict=True)]
    return ProbeTable(found, rank_me=by_rank[0], effective_rank=by_rank[1])


def chance_table(
    volumes: Sequence[ProbedVolume],
    folds: Sequence[Fold],
    options: ProbeOptions = DEFAULT_OPTIONS,
) -> list[Estimate]:
    """Errors of answers that ignore the image: the mean target of the fitted patients.

    `crop` in px, `slice` in slices, `side` as the share of right answers.
    """
    found: dict[str, dict[str, float]] = {}
    crops, slices = _ask_crops(volumes, options), _ask_slices(volumes, options)
    for fold in folds:
        known = _known(volumes, fold)
        for name, asked in (("crop", crops), ("slice", slices)):
            if asked is None:
                continue
            fitted = torch.tensor([known[q.volume] for q in asked.questions])
            errors = (asked.targets[~fitted] - asked.targets[fitted].mean(dim=0)).abs().mean(dim=1)
            owners = [volumes[q.volume].patient for q in asked.questions if not known[q.volume]]
            found.setdefault(name, {}).update(mean_by_patient(errors, owners))
            if name == "crop":
                sides = _sides(asked, volumes, options)
                right = (sides[~fitted] > 0) == (sides[fitted].mean() > 0)
                found.setdefault("side", {}).update(mean_by_patient(right, owners))
    return estimate(found, options.seed)


def _known(volumes: Sequence[ProbedVolume], fold: Fold) -> list[bool]:
    """Whether each volume is of a patient that is fitted on."""
    known = [volume.patient not in fold for volume in volumes]
    if all(known) or not any(known):
        raise InputError("probe: a fold leaves out no patient, or all of them")
    return known


def _ask_crops(volumes: Sequence[ProbedVolume], options: ProbeOptions) -> _Answers:
    """Crops at places that are uniform in the plane, the same for every backbone."""
    questions, corners = [], []
    for index, volume in enumerate(volumes):
        Z, Y, X = volume.voxels.shape
        spare = (Y - options.crop_px, X - options.crop_px)
        if min(spare) < 1:
            raise InputError(
                f"probe: expected planes larger than crops of {options.crop_px} px, got {Y} x {X}"
            )
        generator = torch.Generator().manual_seed(step_seed(options.seed, index, _CROP_DRAWS))
        drawn = [
            torch.randint(room + 1, (options.crops,), generator=generator).tolist()
            for room in spare
        ]
        picked = tuple(range(0, Z, options.crop_slice_stride))
        size = (options.crop_px, options.crop_px)
        for y, x in zip(*drawn, strict=True):
            questions.append(Question(index, picked, (y, x), size))
            corners.append((y, x))
    if len({len(question.slices) for question in questions}) > 1:
        raise InputError("probe: expected volumes of one grid, got several")
    return _Answers(questions, torch.tensor(corners, dtype=torch.float32))


def _ask_slices(volumes: Sequence[ProbedVolume], options: ProbeOptions) -> _Answers | None:
    """Whole slices. None if the question is left out."""
    if not options.position_slice_stride:
        return None
    questions = [
        Question(index, (z,), (0, 0), (volume.voxels.shape[1], volume.voxels.shape[2]))
        for index, volume in enumerate(volumes)
        for z in range(0, volume.voxels.shape[0], options.position_slice_stride)
    ]
    positions = [[float(question.slices[0])] for question in questions]
    return _Answers(questions, torch.tensor(positions))


def _sample(
    questions: Sequence[Question], known: Sequence[bool], options: ProbeOptions
) -> list[Question]:
    """Questions of the fitted patients, in random order, for batch norm statistics."""
    fitted = [question for question in questions if known[question.volume]]
    h, w = questions[0].size
    images = options.norm_images * options.crop_px**2 / (h * w)
    count = max(2, round(images / len(questions[0].slices)))
    generator = torch.Generator().manual_seed(step_seed(options.seed, 0, _NORM_DRAWS))
    order = torch.randperm(len(fitted), generator=generator)[:count].tolist()
    return [fitted[index] for index in order]


def _sides(asked: _Answers, volumes: Sequence[ProbedVolume], options: ProbeOptions) -> Tensor:
    """+1 where the middle of a crop is in the right half of the columns, else -1: float32 (Q,).

    Columns grow toward the patient's left.
    """
    spare = torch.tensor(
        [volumes[q.volume].voxels.shape[2] - options.crop_px for q in asked.questions]
    )
    return torch.where(asked.targets[:, 1] * 2 > spare, 1.0, -1.0)


def _measure_crops(
    features: tuple[Tensor, Tensor],
    asked: _Answers,
    fitted: Tensor,
    volumes: Sequence[ProbedVolume],
    options: ProbeOptions,
) -> dict[str, Tensor]:
    """Error of each crop left out, by probe."""
    sides = _sides(asked, volumes, options)[:, None]
    known = torch.cat([asked.targets, sides], dim=1)[fitted]
    truth, true_sides = asked.targets[~fitted], sides[~fitted, 0]
    errors = {}
    for name, rows in zip(("map", "mean"), features, strict=True):
        nearest = knn_predict(rows[fitted], known, rows[~fitted], options.neighbours)
        ridge = ridge_predict(rows[fitted], known, rows[~fitted], options.ridge)
        for predictor, values in (("knn", nearest), ("ridge", ridge)):
            errors[f"crop_{predictor}_{name}"] = (values[:, :2] - truth).abs().mean(dim=1)
            if name == "map":
                errors[f"side_{predictor}"] = ((values[:, 2] > 0) == (true_sides > 0)).float()
    return errors


def _measure_slices(
    features: tuple[Tensor, Tensor],
    asked: _Answers,
    fitted: Tensor,
    _volumes: Sequence[ProbedVolume],
    options: ProbeOptions,
) -> dict[str, Tensor]:
    """Error of each slice left out, by probe, from the means of the maps."""
    rows, known, truth = features[1], asked.targets[fitted], asked.targets[~fitted]
    nearest = knn_predict(rows[fitted], known, rows[~fitted], options.neighbours)
    ridge = ridge_predict(rows[fitted], known, rows[~fitted], options.ridge)
    return {
        "slice_knn": (nearest - truth).abs().mean(dim=1),
        "slice_ridge": (ridge - truth).abs().mean(dim=1),
    }
