"""The stage of export: the classifiers of a finished fine-tuning run as one ONNX file."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from voco_data.errors import InputError, VocoError, translate_unwritable
from voco_data.storage import atomic
from voco_data.temporary_folders import temporary_folder
from voco_data.version import VERSION
from voco_models.data import input_window
from voco_models.networks import find_head
from voco_models.prediction import onnx_model
from voco_models.stages.finished_run import FinishedRun, read_finished_run

TOLERANCE = 1e-4
"""Largest difference of a probability between PyTorch and onnxruntime."""
CHECKED_BATCHES = (1, 3)
"""Sizes of the batches that are compared; the model is exported with another one."""
USE = (
    "Not a medical device. For research only. The weights were learnt from CT volumes of patients; "
    "the terms of those data sets apply."
)


@dataclass(frozen=True, slots=True)
class ExportSummary:
    """The file, and how well it agrees."""

    file: Path
    folds: tuple[int, ...]
    """Folds whose models it averages."""
    inputs: dict[str, tuple[int, ...]]
    """Shapes without the batch."""
    outputs: tuple[str, ...]
    largest_difference: float
    """Of a probability, between PyTorch and onnxruntime on random input."""
    bytes: int
    int8_difference: float | None = None
    """Of a probability, between the int8 file and that of float32, on random input; None without
    int8."""

    def to_json(self) -> dict[str, object]:
        """The summary as plain values."""
        return asdict(self) | {"file": str(self.file)}


def export_onnx(
    run: str | Path, out: str | Path, *, fold: int | None = None, int8: bool = False
) -> ExportSummary:
    """Write the mean of all folds of `run`, or the model of one `fold`, to `out`.

    With `int8`, the file has int8 weights; the model of float32 is checked before.

    Raises InputError for a run that cannot predict, a fold that it lacks, a file that exists or has
    another suffix than .onnx, and without the extra `onnx`. Raises VocoError if onnxruntime gives
    other probabilities than PyTorch.
    """
    onnx_model.check_onnx_installed()
    path, finished = Path(out), read_finished_run(run)
    _check_path(path)
    folds = _choose_folds(finished, fold)
    recipe = finished.recipe
    model = onnx_model.OnnxClassifier(
        [finished.load_classifier(each) for each in folds],
        input_window(recipe.window_hu, finished.spec),
        recipe.flips,
        finished.targets.names,
    )
    needs_depths = find_head(recipe.head).needs_geometry
    shape = recipe.view.shape
    with translate_unwritable(path.parent), temporary_folder() as folder:
        made = folder / "float32.onnx"
        onnx_model.write_onnx(
            made, model, shape, needs_depths=needs_depths, metadata=_describe(finished, folds)
        )
        inputs = [
            onnx_model.example_inputs(shape, batch, needs_depths=needs_depths)
            for batch in CHECKED_BATCHES
        ]
        exact = [onnx_model.run_onnx(made, each) for each in inputs]
        difference = _largest_difference(
            [onnx_model.run_torch(model, each) for each in inputs], exact
        )
        if not difference <= TOLERANCE:
            raise VocoError(
                f"{path}: onnxruntime differs from PyTorch by {difference:.2g}, more than "
                f"{TOLERANCE:g}; nothing was written"
            )
        int8_difference = None
        if int8:
            quantised = folder / "int8.onnx"
            onnx_model.quantise(made, quantised)
            outputs = [onnx_model.run_onnx(quantised, each) for each in inputs]
            int8_difference, made = _largest_difference(exact, outputs), quantised
        atomic.write_bytes(path, made.read_bytes())
    return ExportSummary(
        file=path,
        folds=folds,
        inputs={name: array.shape[1:] for name, array in inputs[0].items()},
        outputs=finished.targets.names,
        largest_difference=difference,
        bytes=path.stat().st_size,
        int8_difference=int8_difference,
    )


def _check_path(path: Path) -> None:
    if path.suffix != ".onnx":
        raise InputError(f"{path}: expected a name that ends in .onnx as --out")
    if path.exists():
        raise InputError(f"{path}: exists already; give another --out")
    if not path.absolute().parent.is_dir():
        raise InputError(f"{path}: expected an existing folder for it")


def _choose_folds(run: FinishedRun, fold: int | None) -> tuple[int, ...]:
    n_folds = run.recipe.n_folds
    if fold is None:
        return tuple(range(n_folds))
    if not 0 <= fold < n_folds:
        raise InputError(f"{run.folder}: expected a fold from 0 to {n_folds - 1}, got {fold}")
    return (fold,)


def _largest_difference(
    ones: Sequence[dict[str, onnx_model.FloatArray]],
    others: Sequence[dict[str, onnx_model.FloatArray]],
) -> float:
    """Of all values of the outputs of some batches, by name."""
    return max(
        float(np.abs(one[name] - other[name]).max())
        for one, other in zip(ones, others, strict=True)
        for name in one
    )


def _describe(run: FinishedRun, folds: tuple[int, ...]) -> dict[str, Any]:
    """What another program needs to know, in the metadata of the model."""
    return {
        "use": USE,
        "voco": VERSION,
        "run": run.digest,
        "folds": list(folds),
        "classes": {group.name: list(group.classes) for group in run.targets},
        "decision": json.loads(run.decision.to_json()),
        "spec": dataclasses.asdict(run.spec),
        "view": dataclasses.asdict(run.recipe.view),
        "patient": run.recipe.patient,
    }
