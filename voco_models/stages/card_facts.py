"""What a finished fine-tuning run records of itself, as sentences for a model card.

Sentences hold counts, digests and settings; no id, no path and no label of a patient.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from voco_data.errors import InputError
from voco_data.labels import RSNA_TARGETS
from voco_models.data import VolumeView
from voco_models.evaluation import predictions, report
from voco_models.networks import SliceSequenceClassifier
from voco_models.stages.evaluation import read_labels_of_run
from voco_models.stages.finished_run import FinishedRun
from voco_models.stages.onnx_export import USE


def read_metrics(run: Path) -> dict[str, Any] | None:
    """The numbers of the evaluation; None for a run that was not evaluated in its folder.

    Raises InputError if the file cannot be read.
    """
    path = run / report.METRICS
    if not path.exists():
        return None
    try:
        read: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: expected the numbers of voco evaluate, cannot read") from error
    return read


def collect_facts(
    run: FinishedRun, classifier: SliceSequenceClassifier, metrics: Mapping[str, Any] | None
) -> dict[str, str | None]:
    """Sentences by the names that `card_items` uses; None where the run does not tell."""
    about, recipe, spec = run.description, run.recipe, run.spec
    table = predictions.read_predictions(run.folder / predictions.FILE, run.targets)
    groups = "; ".join(f"{g.name}: {', '.join(g.classes)}" for g in run.targets)
    test = predictions.patient_lines(table, "test")
    scored = None if metrics is None else _scores(metrics)
    kind = (
        f"Deep learning. A 2D CNN ({recipe.backbone}) sees each slice of a CT volume, and the head "
        f"{recipe.head} combines the slices and grades injuries ({groups})."
    )
    grades = "The class of a patient has the largest ratio of probability to threshold."
    counts = f"{about.get('patients')} patients, {about.get('series')} series"
    return {
        "kind": kind,
        "summary": f"{kind} {counts}; {len(test)} patients were held out as a test set. "
        + (scored or "The run was not evaluated in its folder."),
        "use": USE,
        "sources": _sources(about),
        "criteria": (
            f"Series of at least {spec.min_slices} slices and {spec.min_extent_mm:g} mm; uneven "
            f"slices: {spec.uneven_slices}. Patients with labels. {_selection(recipe.selection)}"
        ),
        "preprocessing": (
            f"Store spec {spec.digest} (spec.json): crop {spec.crop}, window "
            f"{spec.window_low_hu:g} to {spec.window_low_hu + spec.window_width_hu:g} HU, "
            f"resampling {spec.resampling}, grid {_shape(spec.grid)}, {spec.quantisation}, "
            f"algorithm version {spec.algorithm_version}."
        ),
        "view": _describe_view(recipe.view, recipe.window_hu),
        "missing": (
            "A series that lacks a slice position or a label is left out or refused; no value is "
            f"imputed. Share of the labels outside the test set that is used: "
            f"{recipe.label_fraction:g}."
        ),
        "reference": (
            f"One class per patient and group ({groups}), from a label table with the SHA-256 "
            f"{about.get('labels_sha256')}."
        ),
        "partitions": (
            f"Split {about.get('split')}: {len(test)} test patients; {_fold_sizes(run)} patients "
            f"in {recipe.n_folds} folds for cross-validation. Patients of one family are in one "
            "part."
        ),
        "disjoint": (
            "Patients. Those who shared a volume when the split was made are in one part. "
            + report.exposure_of(about, len(test)).sentence
        ),
        "model": (
            f"{recipe.backbone} with one input channel, pooling {recipe.pooling}, head "
            f"{recipe.head} (hidden {recipe.hidden}, layers {recipe.layers}, dropout "
            f"{recipe.dropout:g}): {sum(p.numel() for p in classifier.parameters())} parameters. "
            "recipe.json has all options, weights/ the weights."
        ),
        "software": (
            f"voco {about.get('voco')}, commit {about.get('commit') or 'unknown'}; PyTorch "
            f"{about.get('torch')}; timm {about.get('timm')}."
        ),
        "initial": _initial(about),
        "training": (
            f"{_length(recipe)}, batches of {recipe.batch_size} series, {recipe.optimizer.kind}, "
            f"learning rate {recipe.lr:g}, weight decay {recipe.weight_decay:g}; cross-entropy "
            f"with class weights {', '.join(f'{w:g}' for w in recipe.class_weights)} of healthy, "
            "low and high. recipe.json has augmentation and all other options."
        ),
        "final": (
            "The weights after the last step"
            + (f", as a moving average (decay {recipe.ema_decay:g})" if recipe.ema_decay else "")
            + ". No checkpoint is chosen by a score, and nothing is updated after the evaluation."
        ),
        "ensemble": (
            f"The mean over the models of {recipe.n_folds} folds and {len(recipe.flips)} "
            f"view(s) of a volume; a patient is the {recipe.patient} of its series. decision.json "
            "then calibrates."
        ),
        "metrics": (
            None
            if metrics is None
            else f"On the test patients: {', '.join(metrics['scores'])}; lower is better for those "
            "that begin with rsna."
        ),
        "uncertainty": (
            None
            if metrics is None
            else f"Percentile intervals of level {metrics['level']:g} from {metrics['resamples']} "
            "resamples of the test patients; gains over constants are paired."
        ),
        "explanation": (
            f"The head {recipe.head} gives its attention to slices, which pages of voco predict "
            "show. It was not validated."
            if recipe.head != "bilstm"
            else None
        ),
        "internal": (
            None
            if metrics is None
            else f"{len(test)} test patients of the split. {_looks(metrics)}"
        ),
        "numbers": f"{counts}. Test patients: {len(test)}.{_left_out(about)}",
        "characteristics": _classes(run, test),
        "performance": scored,
        "by_organ": None if metrics is None else _gains(metrics),
        "limitations": (
            f"{len(test)} test patients of the same data source as training. "
            f"{report.exposure_of(about, len(test)).sentence}"
        ),
        "details": (
            f"Run {run.digest}. recipe.json, spec.json and decision.json are beside this card."
        ),
        "availability": "The weights are in weights/, of all folds.",
        "predictors": "Voxels of a CT volume alone. No other value of a patient is used.",
        "imbalance": (
            "Class weights of the loss: "
            f"{', '.join(f'{w:g}' for w in recipe.class_weights)}. "
            + (
                "Probabilities are calibrated on out-of-fold predictions."
                if recipe.calibrate
                else "Probabilities are not calibrated."
            )
        ),
        "output": (
            f"Probabilities of the classes of each group, calibrated by decision.json. {grades} "
            "Thresholds maximise the macro F1 of out-of-fold predictions."
        ),
        "bad_input": (
            "Preprocessing refuses a series that it cannot place, with a reason. voco predict "
            "abstains where a prediction is near another class, or the abdomen was not found."
        ),
    }


def _sources(about: Mapping[str, Any]) -> str:
    stores = "; ".join(
        f"{store.get('name')}, {store.get('volumes')} volumes, content {store.get('content')}"
        for store in about.get("stores", [])
    )
    layouts = (about.get("selection") or {}).get("layouts") or {}
    by_layout = ", ".join(f"{count} of {name}" for name, count in layouts.items())
    return f"Store {stores}." + (f" Volumes by archive: {by_layout}." if by_layout else "")


def _selection(selection: Any) -> str:
    """How series were selected, without ids and paths."""
    parts = []
    if selection.layouts:
        parts.append(f"archives {', '.join(selection.layouts)}")
    if selection.patients or selection.patients_file is not None:
        parts.append("a list of patients")
    if selection.without_flags:
        parts.append(f"no series with the flags {', '.join(selection.without_flags)}")
    return f"Selected: {'; '.join(parts)}." if parts else "All series of the store are selected."


def _describe_view(view: VolumeView, window_hu: tuple[float, float] | None) -> str:
    window = "all of the store's window" if window_hu is None else _range(window_hu, " HU")
    return (
        f"{_shape(view.shape)} voxels by {view.reduce}, from {_range(view.z_range, '')} of the "
        f"stored box (0 is its inferior end); input window: {window}."
    )


def _initial(about: Mapping[str, Any]) -> str:
    weights = about.get("initial_weights") or {}
    text = f"{weights.get('name') or about.get('init')}"
    if weights.get("sha256"):
        text += f", SHA-256 of the tensors {weights['sha256']}"
    text += "; all other weights are random, from the seed of the recipe."
    before = about.get("pretraining")
    if not before:
        return text
    stores = ", ".join(str(store.get("volumes")) for store in before.get("stores", []))
    patients = (before.get("selection") or {}).get("patients")
    return (
        f"{text} Pretraining: stage {before.get('stage')}, store volumes {stores}, patients "
        f"{patients if patients is not None else 'unknown'}, commit "
        f"{before.get('commit') or 'unknown'}; pretraining.json has its recipe."
    )


def _length(recipe: Any) -> str:
    return f"{recipe.epochs} epochs" if recipe.steps is None else f"{recipe.steps} steps"


def _fold_sizes(run: FinishedRun) -> str:
    sizes = run.out_of_fold.groupby("fold").size()
    return " and ".join(str(size) for size in sizes)


def _left_out(about: Mapping[str, Any]) -> str:
    left = (about.get("selection") or {}).get("left_out") or {}
    return f" Left out of the store: {_counts(left)}." if left else ""


def _classes(run: FinishedRun, test: pd.DataFrame) -> str:
    """Patients of each class in both parts."""
    labels = read_labels_of_run(run.folder)
    is_test = labels.index.isin(test["patient_id"])
    parts = []
    for name, part in (("training", labels[~is_test]), ("test", labels[is_test])):
        groups = []
        for group in RSNA_TARGETS:
            if group.name in part.columns:
                classes = part[group.name].to_numpy(np.int64)
                counts = np.bincount(classes, minlength=len(group.classes)).tolist()
                told = _counts(dict(zip(group.classes, counts, strict=True)))
                groups.append(f"{group.name}: {told}")
        parts.append(f"{name} ({len(part)} patients): {'; '.join(groups)}")
    return f"Patients by class. {'. '.join(parts)}."


def _scores(metrics: Mapping[str, Any]) -> str:
    scores = ", ".join(f"{name} {_interval(value)}" for name, value in metrics["scores"].items())
    constant = " and ".join(metrics.get("constant_groups") or [])
    note = f" {constant} are not predicted: all have the training shares." if constant else ""
    return f"On {metrics['test_patients']} test patients: {scores}.{note}"


def _gains(metrics: Mapping[str, Any]) -> str:
    gains = metrics["gains"].get("test_best_constant", {})
    told = ", ".join(
        f"{name} {_interval(value)}" for name, value in gains.items() if not name.startswith("rsna")
    )
    losses = ", ".join(f"{name} {organ['loss']:.3f}" for name, organ in metrics["organs"].items())
    return (
        f"Weighted log loss by group: {losses}. Gain over the best constant: {told or 'unknown'}."
    )


def _looks(metrics: Mapping[str, Any]) -> str:
    looks = (metrics.get("test_set") or {}).get("looks")
    return f"Evaluations of the test set: {'unknown' if looks is None else looks}."


def _interval(value: Mapping[str, float]) -> str:
    return f"{value['value']:.3f} ({value['low']:.3f} to {value['high']:.3f})"


def _counts(counts: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())


def _shape(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def _range(ends: tuple[float, float], unit: str) -> str:
    return f"{ends[0]:g} to {ends[1]:g}{unit}"
