"""The stage of prediction: a finished fine-tuning run on a store of new series.

OUT/predict.json          the run that predicts, so that a rerun continues and no other run mixes in
OUT/spec.json             the spec with which the series are preprocessed
OUT/predictions.parquet   a line per series, study and patient, and per refused series
OUT/submission.csv        a line per patient, as in RSNA 2023 Abdominal Trauma Detection
OUT/index.html            all patients; OUT/patients/ has a page for each

Nothing is fitted on the new series. Calibration and thresholds are those of the run.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from voco_data.errors import InputError, VocoError, translate_unwritable
from voco_data.labels import RSNA_TARGETS
from voco_data.storage import atomic, parquet
from voco_data.store import Store, StoreSpec, read_record
from voco_data.version import VERSION
from voco_data.volumes import is_given_box
from voco_models import prediction
from voco_models.data import Item, input_window
from voco_models.prediction import Abstention, SeriesView, fit_abstention
from voco_models.stages.classifiers import (
    Explained,
    Weights,
    explain_items,
    input_volumes,
    read_head_geometry,
)
from voco_models.stages.finished_run import FinishedRun, read_finished_run
from voco_models.training import choose_device

log = logging.getLogger(__name__)

MARKER, SPEC, TABLE, SUBMISSION = (
    "predict.json",
    "spec.json",
    "predictions.parquet",
    "submission.csv",
)
ROOT = "stores"
"""Folder of OUT for the root of the stores, which the caller fills."""
_IDS = ["patient_id", "study_uid", "series_uid"]
_REFUSED_COLUMNS = ["kind", "source", "reason", "detail", *_IDS]
FLAGGED = "flagged"
"""Reason of a series that has a flag that the run leaves out; no reason of the ledger."""


@dataclass(frozen=True, slots=True)
class PreparedPrediction:
    """Where the series must be preprocessed, and how."""

    spec: StoreSpec
    spec_file: Path
    root: Path
    """Root for the stores."""


@dataclass(frozen=True, slots=True)
class PredictSummary:
    """Counts and files of a prediction."""

    run: Path
    out: Path
    table: Path
    submission: Path
    index: Path
    patients: int
    """All patients, those without a prediction included."""
    predicted_patients: int
    series: int
    """Series that were predicted."""
    refused: int
    """Series and files that were refused."""
    abstained: dict[str, int]
    """Predicted patients on whom a group abstains, by group."""
    digest: str
    """Of the run."""
    version: str
    """Of voco, which predicts."""
    seconds: float
    """Duration of the stage, without preprocessing."""

    def to_json(self) -> dict[str, object]:
        """The summary as plain values."""
        paths = {name: str(getattr(self, name)) for name in ("run", "out")}
        files = {name: str(getattr(self, name)) for name in ("table", "submission", "index")}
        return asdict(self) | paths | files


def prepare_prediction(
    run: str | Path, out: str | Path, *, boxes_given: bool = False
) -> PreparedPrediction:
    """Check `run` and `out`, and write the spec of the run to `out`.

    Raises InputError, with nothing written, for a run that cannot predict, for one that learnt from
    given boxes unless `boxes_given`, and for a folder that holds anything but predictions of this
    run. Raises VocoError if it cannot be written.
    """
    finished, folder = read_finished_run(run), Path(out)
    if not boxes_given:
        _check_boxes(finished)
    _check_out(finished, folder)
    spec_file = folder / SPEC
    with translate_unwritable(folder):
        folder.mkdir(parents=True, exist_ok=True)
        marker = {"run": str(finished.folder.resolve()), "digest": finished.digest}
        atomic.write_text(folder / MARKER, json.dumps(marker, indent=2, sort_keys=True) + "\n")
        atomic.write_text(spec_file, json.dumps(asdict(finished.spec), indent=2) + "\n")
    return PreparedPrediction(finished.spec, spec_file, folder / ROOT)


def discard_preparation(prepared: PreparedPrediction, *, folder_too: bool) -> None:
    """Remove what `prepare_prediction` has written; with `folder_too`, also the empty folder."""
    folder = prepared.spec_file.parent
    for name in (SPEC, MARKER):
        (folder / name).unlink(missing_ok=True)
    if folder_too and not any(folder.iterdir()):
        folder.rmdir()


def _check_boxes(run: FinishedRun) -> None:
    """Raise InputError if most series of the run had boxes of a table: new ones need them too."""
    counts: dict[str, int] = run.description.get("box_methods") or {}  # None: an older run
    given = {method: n for method, n in counts.items() if is_given_box(method)}
    if sum(given.values()) * 2 > sum(counts.values()):
        raise InputError(
            f"{run.folder}: {sum(given.values())} of the {sum(counts.values())} series that it "
            f"learnt from had boxes of a table ({', '.join(given)}); give --boxes FILE with such "
            "boxes of the new series"
        )


def _check_out(run: FinishedRun, out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: expected a folder as --out, got a file")
    if not out.exists() or not any(out.iterdir()):
        return
    try:
        digest = json.loads((out / MARKER).read_text())["digest"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{out}: holds something else than predictions; give an empty or new folder as --out"
        ) from error
    if digest != run.digest:
        raise InputError(f"{out}: holds predictions of another run; give another --out")


def predict(
    run: str | Path,
    store: str | Path | Store,
    out: str | Path,
    *,
    ledger: str | Path | None = None,
    device: str | torch.device | None = None,
) -> PredictSummary:
    """Predict the series of `store` with all models of a finished fine-tuning run.

    Parameters
    ----------
    run : folder of the run.
    store : an open store of the run's spec, or its folder or URL.
    out : folder for the results.
    ledger : ledger of the preprocess run. With it, only the series that it lists as stored or
        cached are predicted, and its refused rows are in the results.
    device : CUDA if available, else the CPU, if None.

    Raises
    ------
    InputError : for a run that cannot predict, and a store of another spec.
    VocoError : if the results cannot be written.
    """
    start = time.perf_counter()
    finished, folder = read_finished_run(run), Path(out)
    opened = store if isinstance(store, Store) else Store.open(store)
    if opened.spec != finished.spec:
        raise InputError(
            f"{opened.storage}: expected a store of the run's spec {finished.spec.name}; make it "
            f"with voco preprocess --spec-file {folder / SPEC}"
        )
    series, refused = _select_series(opened, None if ledger is None else Path(ledger))
    series, flagged = _leave_out_flagged(series, finished.recipe.selection.without_flags)
    refused = pd.concat([refused, flagged], ignore_index=True) if len(flagged) else refused
    abstention = fit_abstention(finished.decision, finished.out_of_fold)
    explained = _explain(finished, opened, series, choose_device(device))
    table = _make_table(finished, series, refused, explained, abstention)
    with translate_unwritable(folder):
        _write(finished, opened, folder, series, table, explained, abstention)
    patients = table[table["level"] == "patient"]
    predicted = patients[patients["status"] == "predicted"]
    if predicted.empty:
        log.warning("no series could be predicted; %s says why", folder / prediction.INDEX)
    elif len(refused):
        log.warning("%d refused; %s says why", len(refused), folder / prediction.INDEX)
    return PredictSummary(
        run=finished.folder,
        out=folder,
        table=folder / TABLE,
        submission=folder / SUBMISSION,
        index=folder / prediction.INDEX,
        patients=len(patients),
        predicted_patients=len(predicted),
        series=len(series),
        refused=len(refused),
        abstained={
            name: int((predicted[f"abstained_{name}"] != "").sum())
            for name in finished.targets.names
        },
        digest=finished.digest,
        version=VERSION,
        seconds=round(time.perf_counter() - start, 3),
    )


def _select_series(store: Store, ledger: Path | None) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Lines of the catalogue to predict, sorted by row, and refused lines of the ledger."""
    catalogue = store.catalogue.sort_values("row", ignore_index=True)
    if ledger is None:
        return catalogue, pd.DataFrame(columns=_REFUSED_COLUMNS)
    rows = parquet.read_frame(ledger, "the ledger of a preprocess run")
    rows[_REFUSED_COLUMNS] = rows[_REFUSED_COLUMNS].fillna("").astype(object)
    kept = rows[(rows["kind"] == "series") & rows["status"].isin(["stored", "cached"])]
    listed = set(kept[_IDS].itertuples(index=False, name=None))
    ids = catalogue[_IDS].itertuples(index=False, name=None)
    chosen = np.array([each in listed for each in ids], np.bool_)
    refused = rows.loc[rows["status"] == "refused", _REFUSED_COLUMNS]
    return catalogue[chosen].reset_index(drop=True), refused.reset_index(drop=True)


def _leave_out_flagged(
    series: pd.DataFrame, without_flags: Sequence[str]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Lines of the catalogue without these flags, and refused lines for the others.

    The run was neither trained nor scored on series with such a flag. Layouts and patients of its
    selection say nothing of new patients.
    """
    named = [sorted(set(flags.split()) & set(without_flags)) for flags in series["flags"]]
    is_out = np.array([bool(flags) for flags in named], np.bool_)
    details = [f"the selection of the run leaves out {', '.join(n)}" for n in named if n]
    refused = series.loc[is_out, ["source", *_IDS]].assign(
        kind="series", reason=FLAGGED, detail=details
    )
    return series[~is_out].reset_index(drop=True), refused[_REFUSED_COLUMNS]


def _explain(
    run: FinishedRun, store: Store, series: pd.DataFrame, device: torch.device
) -> Explained:
    """Means over the models of all folds."""
    rows = [int(row) for row in series["row"]]
    if not rows:
        return Explained({}, {})
    volumes = input_volumes(run.recipe, store)
    items = [Item(volumes, row) for row in rows]
    geometry = read_head_geometry(run.recipe, store, rows)
    tensors = {} if geometry is None else geometry.select(range(len(rows)))
    window = input_window(run.recipe.window_hu, store.spec)
    folds = [
        explain_items(
            run.load_classifier(fold).to(device),
            run.recipe,
            items,
            window,
            tensors,
            device=device,
        )
        for fold in range(run.recipe.n_folds)
    ]
    return Explained(
        _mean([fold.probabilities for fold in folds]), _mean([fold.attention for fold in folds])
    )


def _mean(folds: Sequence[Mapping[str, Weights]]) -> dict[str, Weights]:
    """Means over the folds, in float64 as `average_folds` computes them."""
    return {
        name: np.mean([np.asarray(fold[name], np.float64) for fold in folds], axis=0)
        for name in folds[0]
    }


def _make_table(
    run: FinishedRun,
    series: pd.DataFrame,
    refused: pd.DataFrame,
    explained: Explained,
    abstention: Abstention,
) -> pd.DataFrame:
    lines = series
    if len(series):
        lines = prediction.make_series_lines(series, explained.probabilities, run.targets)
    return prediction.make_table(
        lines,
        refused,
        aggregate=run.recipe.patient,
        decision=run.decision,
        abstention=abstention,
    )


def _write(
    run: FinishedRun,
    store: Store,
    out: Path,
    series: pd.DataFrame,
    table: pd.DataFrame,
    explained: Explained,
    abstention: Abstention,
) -> None:
    prediction.write_table(out / TABLE, table)
    submission = prediction.make_submission(table, run.priors, run.targets)
    prediction.write_table(out / SUBMISSION, submission)
    patients = sorted(table.loc[table["level"] == "patient", "patient_id"])
    for patient in patients:
        views = list(_views_of(run, store, series, patient, explained))
        prediction.write_patient(out, patient, table, views, run.decision.thresholds)
    prediction.remove_other_pages(out, patients)
    prediction.write_index(
        out, table, run.decision.thresholds, abstention, _facts(run), _notes(run)
    )


def _views_of(
    run: FinishedRun, store: Store, series: pd.DataFrame, patient: str, explained: Explained
) -> Iterator[SeriesView]:
    """What the page of a patient shows of each of its series."""
    for index in np.flatnonzero((series["patient_id"] == patient).to_numpy()).tolist():
        row = int(series["row"].iloc[index])
        record = read_record(store.storage, row)
        if record is None:
            raise VocoError(f"{store.storage}: the record of row {row} is missing")
        yield SeriesView(
            record=record,
            volume=store.read(row),
            quantisation=store.spec.window,
            z_range=run.recipe.view.shown_range(store.grid[0]),
            attention={name: weights[index] for name, weights in explained.attention.items()},
        )


def _facts(run: FinishedRun) -> list[tuple[str, object]]:
    description = run.description
    return [
        ("Run", f"{run.folder.name}, {run.digest}"),
        ("Recipe", f"{run.recipe.name}: {run.recipe.backbone}, head {run.recipe.head}"),
        ("Models", f"{run.recipe.n_folds}, one per fold; probabilities are their means"),
        ("Patients of the run", description.get("patients")),
        ("Store", run.spec.name),
        ("Several series", f"a patient is the {run.recipe.patient} of its series"),
        ("voco", f"{description.get('voco')}, commit {description.get('commit') or 'unknown'}"),
    ]


def _notes(run: FinishedRun) -> list[str]:
    """Where the columns of the submission come from that no model predicts."""
    ungraded = [group.name for group in RSNA_TARGETS.without(run.targets)]
    constant = [name for name in ungraded if name in run.priors]
    unknown = [name for name in ungraded if name not in run.priors]
    notes = [
        f"{SUBMISSION}: refused patients have the shares of the training labels in every column."
    ]
    if constant:
        notes.append(
            f"{SUBMISSION}: {' and '.join(constant)} are not predicted. Every patient has the "
            "shares of the training labels there."
        )
    if unknown:
        notes.append(
            f"{SUBMISSION}: {' and '.join(unknown)} are empty, because the labels of the run lack "
            "them."
        )
    return notes
