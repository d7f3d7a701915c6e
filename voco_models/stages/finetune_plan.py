"""The plan of a fine-tuning run: its labels, split, volumes and initial weights.

`make_plan` writes nothing, and raises InputError for inputs that do not fit together.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor

from voco_data.errors import InputError
from voco_data.labels import (
    Labels,
    TargetTable,
    join_labels,
    read_image_labels,
    read_labels,
)
from voco_data.selection import (
    Exposure,
    Split,
    contents_of_patients,
    describe_series,
    family_links,
    list_series,
    measure_exposure,
    now,
)
from voco_data.store import Store
from voco_models.data import InputWindow, Item, VolumeSource, input_window, raise_share
from voco_models.networks import create_backbone, takes_volumes
from voco_models.objectives import SLICE_LABELS
from voco_models.stages.classifiers import input_volumes, read_head_geometry
from voco_models.stages.finetune_recipes import FinetuneRecipe
from voco_models.stages.initial_weights import SCRATCH, InitialWeights, load_initial_weights
from voco_models.stages.series_geometry import SeriesGeometry, count_boxes, read_records
from voco_models.stages.slice_labels import label_slices
from voco_models.training import hash_file, make_provenance

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Series:
    """Labelled series of a store, in row order, as lists of equal length."""

    rows: list[int]
    uids: list[str]
    patients: list[str]
    """Patient ids as in the split and the labels."""
    layouts: list[str]
    """Layouts of the archives."""
    contents: list[str]
    """Content digests of the volumes."""

    def select(self, patients: Sequence[str], *, without: Set[str] = frozenset()) -> Series:
        """The series of `patients`, in row order; no volume with a content digest in `without`."""
        members = set(patients)
        selected = [
            i
            for i, patient in enumerate(self.patients)
            if patient in members and self.contents[i] not in without
        ]
        return Series(
            rows=[self.rows[i] for i in selected],
            uids=[self.uids[i] for i in selected],
            patients=[self.patients[i] for i in selected],
            layouts=[self.layouts[i] for i in selected],
            contents=[self.contents[i] for i in selected],
        )

    def __len__(self) -> int:
        """How many series."""
        return len(self.rows)


@dataclass(frozen=True, slots=True)
class FinetunePlan:
    """A fine-tuning run with checked inputs."""

    recipe: FinetuneRecipe
    volumes: VolumeSource
    labels: Labels
    """Labels of the store's patients."""
    series: Series
    contents: Mapping[str, frozenset[str]]
    """Patient to the content digests of all volumes in the store, also of those not selected."""
    window: InputWindow
    split: Split
    """Of the patients of this run."""
    whole_split: Split
    """With patients of other stores and labels, as in its file."""
    initial: InitialWeights
    exposure: Exposure
    """How many of the test patients pretraining has seen."""
    provenance: dict[str, Any]
    geometry: SeriesGeometry | None = None
    """Of `series`; None if the head does not need it."""
    slice_labels: Tensor | None = None
    """Labels (N, F, Z) of the slices of `series`; None without `slice_weight`."""

    @property
    def targets(self) -> TargetTable:
        """The target groups of the classifier, with the class weights of the score."""
        return self.recipe.targets

    def items_of(self, series: Series) -> list[Item]:
        """Items of a loader for `series`."""
        return [Item(self.volumes, row) for row in series.rows]

    def classes_of(self, series: Series) -> dict[str, Tensor]:
        """Classes of the patients of N `series`, int64 (N,), by target group."""
        classes = self.labels.groups(series.patients)
        return {name: torch.from_numpy(classes[name]) for name in self.targets.names}

    def geometry_of(self, series: Series) -> dict[str, Tensor]:
        """Tensors of `SeriesGeometry` of `series`; none if the head does not need them."""
        return {} if self.geometry is None else self.geometry.select(self._places_of(series))

    def training_targets(self, series: Series) -> dict[str, Tensor]:
        """All that the loss needs of N `series`: classes, geometry and labels of slices."""
        targets = self.classes_of(series) | self.geometry_of(series)
        if self.slice_labels is not None:
            targets[SLICE_LABELS] = self.slice_labels[self._places_of(series)]
        return targets

    def _places_of(self, series: Series) -> list[int]:
        """Indices of `series` among all series of the plan."""
        places = {row: index for index, row in enumerate(self.series.rows)}
        return [places[row] for row in series.rows]

    def training_series(self, fold: int) -> Series:
        """Series that the model of a fold trains on.

        These are the series of its training patients, without volumes that a patient of the test
        set or of the fold has too. Patients who share a volume are in one group, unless the volume
        came later than their split.
        """
        held_out = (*self.split.test, *self.split.folds[fold])
        contents = frozenset().union(*(self.contents[patient] for patient in held_out))
        return self.series.select(self.split.training(fold), without=contents)

    def weights_of(self, series: Series) -> npt.NDArray[np.float64] | None:
        """How often each of N `series` is drawn in training, (N,); None if equally often."""
        of_layouts = self.recipe.selection.weights_of(series.layouts)
        if not self.recipe.finding_share:
            return of_layouts
        classes = self.classes_of(series)
        injured = torch.stack([classes[name] > 0 for name in self.recipe.findings]).any(dim=0)
        weights = np.ones(len(series)) if of_layouts is None else of_layouts
        return raise_share(weights, injured.numpy(), self.recipe.finding_share)

    def count_steps(self, fold: int) -> int:
        """Number of optimiser steps of a fold; 0 if it has fewer series than a batch."""
        per_epoch = len(self.training_series(fold)) // self.recipe.batch_size
        if per_epoch and self.recipe.steps is not None:
            return self.recipe.steps
        return self.recipe.epochs * per_epoch


def make_plan(
    store: Store,
    labels: Path,
    recipe: FinetuneRecipe,
    *,
    init: str | Path,
    image_labels: Path | None = None,
    organ_boxes: Path | None = None,
    split: Split | None = None,
    transductive: bool = False,
    allow_unlabelled: bool = False,
    pseudonymise: Callable[[str], str] | None = None,
) -> FinetunePlan:
    """Check that the inputs fit together, and plan a run. Raises InputError if they do not.

    Without a `split` a new one is made of the labelled patients.
    """
    if takes_volumes(recipe.backbone):
        raise InputError(
            f"recipe: the classifier calls its backbone on slices, and {recipe.backbone} takes "
            "volumes; give a timm CNN as backbone"
        )
    if recipe.recompute == "blocks":
        create_backbone(recipe.backbone).set_recompute(True)  # it may refuse
    recipe.view.check_grid(store.grid)
    initial = load_initial_weights(init, recipe.backbone)
    every = list_series([store])
    selected = recipe.selection.mask(every)
    if not selected.any():
        raise InputError(
            f"selection: none of the {len(every)} volumes is left; select more of them"
        )
    joined = join_labels(
        read_labels(labels),
        every["patient_id"][selected].tolist(),
        allow_unlabelled=allow_unlabelled,
        pseudonymise=pseudonymise,
    )
    _check_columns(labels, joined.labels, recipe)
    named = every.assign(person=[joined.label_ids.get(str(p), str(p)) for p in every["patient_id"]])
    table = named[selected]
    whole_split = split or _new_split(store, joined.label_ids, recipe)
    run_split = _split_of_run(whole_split, joined.labels.patient_ids, recipe)
    used = joined.labels.select(run_split.groups)
    exposure = _measure_exposure(initial, store, every, joined.label_ids, run_split)
    _check_exposure(exposure, Path(init), transductive=transductive)
    series = _labelled_series(table, used)
    plan = FinetunePlan(
        recipe=recipe,
        volumes=input_volumes(recipe, store),
        labels=used,
        contents=contents_of_patients(named.assign(patient_id=named["person"])),
        window=input_window(recipe.window_hu, store.spec),
        series=series,
        geometry=read_head_geometry(recipe, store, series.rows, organ_boxes),
        split=run_split,
        whole_split=whole_split,
        initial=initial,
        exposure=exposure,
        slice_labels=_label_slices(store, series, used, recipe, image_labels),
        provenance=make_provenance(
            "finetune",
            recipe.to_json(),
            [store],
            split=run_split.digest,
            init=initial.name,
            selection=describe_series(table[table["person"].isin(used.patient_ids)]),
        )
        | {"initial_weights": initial.to_json(), "box_methods": count_boxes(store, series.rows)}
        | ({} if image_labels is None else {"image_labels_sha256": hash_file(image_labels)})
        | ({} if organ_boxes is None else {"organ_boxes_sha256": hash_file(organ_boxes)}),
    )
    for fold in range(recipe.n_folds):
        if plan.count_steps(fold) == 0:
            series = plan.training_series(fold)
            raise InputError(
                f"fold {fold} would train on {len(series)} series, "
                f"fewer than the recipe's batch of {recipe.batch_size}; label more patients"
            )
    _warn_of_absent_classes(used, run_split, recipe)
    return plan


def _label_slices(
    store: Store,
    series: Series,
    labels: Labels,
    recipe: FinetuneRecipe,
    image_labels: Path | None,
) -> Tensor | None:
    """The labels of the slices of `series`, if the recipe trains on them."""
    if not recipe.slice_weight:
        if image_labels is not None:
            raise InputError(
                f"{image_labels}: the recipe does not use labels of images; set slice_weight=1 and "
                "groups with bowel or extravasation, or leave --image-labels out"
            )
        return None
    images = None if image_labels is None else read_image_labels(image_labels)
    if images is not None and not set(series.uids) & set(images):
        raise InputError(
            f"{image_labels}: names no series of the store; its series_id must be those of the "
            f"store, such as {series.uids[0]}"
        )
    classes = labels.groups(series.patients)
    of_findings = {name: torch.from_numpy(classes[name]) for name in recipe.findings}
    records = read_records(store, series.rows)
    return label_slices(records, of_findings, recipe.view, store.grid[0], images)


def count_finetune_steps(
    store: Store,
    labels: Path,
    recipe: FinetuneRecipe,
    split: Split,
    *,
    allow_unlabelled: bool = False,
    pseudonymise: Callable[[str], str] | None = None,
) -> int:
    """The steps of the longest fold of a run. Raises InputError as `make_plan`."""
    plan = make_plan(
        store,
        labels,
        recipe,
        init=SCRATCH,
        split=split,
        allow_unlabelled=allow_unlabelled,
        pseudonymise=pseudonymise,
    )
    return max(map(plan.count_steps, range(recipe.n_folds)))


def _new_split(store: Store, label_ids: Mapping[str, str], recipe: FinetuneRecipe) -> Split:
    """A split of the labelled patients, as `voco split` makes it."""
    linked = [*family_links(store), *label_ids.items()]
    return Split(seed=recipe.seed, n_folds=recipe.n_folds).add(label_ids, linked=linked, when=now())


def _split_of_run(split: Split, patients: Sequence[str], recipe: FinetuneRecipe) -> Split:
    """The split of the labelled `patients` alone. Raises InputError if it lacks one."""
    if split.n_folds != recipe.n_folds:
        raise InputError(
            f"split: it has {split.n_folds} folds, the recipe {recipe.n_folds}; give "
            f"--set n_folds={split.n_folds}, or another split"
        )
    groups = split.groups
    missing = sum(patient not in groups for patient in patients)
    if missing:
        raise InputError(
            f"split: it lacks {missing} of the store's {len(patients)} labelled patients; append "
            "them with voco split STORE --labels FILE --out SPLIT"
        )
    split = split.restrict(patients)
    if recipe.label_fraction < 1:
        split = split.keep_fraction(recipe.label_fraction, recipe.seed)
    return split


def _check_columns(file: Path, labels: Labels, recipe: FinetuneRecipe) -> None:
    """Raise InputError if the labels lack a group of the recipe."""
    missing = [name for name in recipe.groups if name not in labels.groups(())]
    if missing:
        raise InputError(
            f"{file}: recipe.groups has {', '.join(missing)}, and the labels have no column "
            f"{', '.join(f'{name}_healthy' for name in missing)}; add them, or leave the groups out"
        )


def _warn_of_absent_classes(labels: Labels, split: Split, recipe: FinetuneRecipe) -> None:
    """Warn of classes without training patients, which a model cannot learn."""
    for fold in range(recipe.n_folds):
        classes = labels.groups(split.training(fold))
        absent = [
            group.columns[c]
            for group in recipe.targets
            for c in range(len(group.classes))
            if not (classes[group.name] == c).any()
        ]
        if absent:
            log.warning(
                "fold %d: no training patient is %s, which its model cannot learn; label such "
                "patients, or take fewer folds",
                fold,
                " or ".join(absent),
            )


def _measure_exposure(
    initial: InitialWeights,
    store: Store,
    every: pd.DataFrame,
    label_ids: Mapping[str, str],
    split: Split,
) -> Exposure:
    """How many test patients the initial weights have seen."""
    if not initial.pretrained:
        return Exposure(pretrained=False, test_patients=len(split.test), seen=0)
    ids: dict[str, list[str]] = {patient: [] for patient in split.test}
    for stored, patient in label_ids.items():
        if patient in ids:
            ids[patient].append(stored)
    return measure_exposure(initial.seen, store, every, ids)


def _check_exposure(exposure: Exposure, init: Path, *, transductive: bool) -> None:
    """Raise InputError if pretraining has seen test patients, unless `transductive`."""
    if exposure.transductive and not transductive:
        raise InputError(
            f"init: {init} was pretrained on {exposure.seen} of the {exposure.test_patients} test "
            "patients; pretrain with --split SPLIT and give the same SPLIT here, or give "
            "--transductive"
        )
    if exposure.pretrained and exposure.transductive is not False:
        log.warning("%s", exposure.sentence)


def _labelled_series(catalogue: pd.DataFrame, labels: Labels) -> Series:
    """The series of a catalogue whose patient, in the column `person`, has labels."""
    table = catalogue[catalogue["person"].isin(labels.patient_ids)].sort_values("row")
    return Series(
        rows=[int(row) for row in table["row"]],
        uids=[str(uid) for uid in table["series_uid"]],
        patients=table["person"].tolist(),
        layouts=[str(layout) for layout in table["layout"]],
        contents=[str(digest) for digest in table["content_digest"]],
    )
