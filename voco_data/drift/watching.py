"""The stage: compare what came in since a cohort was fixed, write a page, and name alarms.

OUT/drift.json   the summary
OUT/report.html  the page
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import pandas as pd

from voco_data.drift import scores
from voco_data.drift.comparisons import Comparison, compare, correct
from voco_data.drift.measures import SCORE, Measure, choose_measures, values_of_patients
from voco_data.drift.page import describe, render
from voco_data.drift.refusals import refused_patients, utc_seconds
from voco_data.errors import InputError, translate_unwritable
from voco_data.selection import PinnedRows
from voco_data.storage import REPORT, atomic, parent_storage
from voco_data.store import Store

ALPHA: Final = 0.01
"""Chance of an alarm of one look without a drift, at most."""
MIN_PATIENTS: Final = 20
"""With fewer patients in a sample, nothing is compared."""
SUMMARY: Final = "drift.json"


@dataclass(frozen=True, slots=True)
class ReferenceCohort:
    """What a model has learnt from, and when this was fixed."""

    name: str
    store: str
    """Folder or URL of the store."""
    rows: Path
    """Its rows, `voco_data.selection.PinnedRows`."""
    since: str
    """When they were fixed, UTC, ISO 8601."""
    run: Path
    """Folder of the fine-tuning run, which has the scores of its test patients."""


@dataclass(frozen=True, slots=True)
class DriftSummary:
    """Alarms, and all comparisons."""

    champion: str
    since: str
    cohort_patients: int
    new_patients: int
    new_series: int
    """Of new patients; those of patients of the cohort are not compared."""
    alarms: tuple[str, ...]
    """One line each; empty if there is no drift, or if there are too few patients to tell."""
    too_few: tuple[str, ...]
    """Measures with too few patients to tell, and why."""
    comparisons: tuple[dict[str, Any], ...]
    alpha: float
    report: str
    seconds: float

    def to_json(self) -> dict[str, object]:
        """As `voco drift --json` prints it."""
        return asdict(self)


def watch_drift(
    cohort: ReferenceCohort,
    out: Path,
    *,
    predictions: Sequence[Path] = (),
    alpha: float = ALPHA,
    min_patients: int = MIN_PATIENTS,
    min_effects: Sequence[str] = (),
) -> DriftSummary:
    """Compare the patients that came in since `cohort` with those of `cohort`.

    Args:
        cohort: The reference.
        out: Folder for the page and the summary; those of an earlier call are replaced.
        predictions: Folders that `voco predict` made with the run of the cohort.
        alpha: Chance of any alarm without a drift.
        min_patients: Fewest patients of both samples of a measure.
        min_effects: Other smallest effects, each NAME=VALUE; see `MEASURES`.

    Raises:
        InputError: An option, the store or a table cannot be used.
        VocoError: The page cannot be written.
    """
    began = time.monotonic()
    _check(alpha, min_patients)
    measures = choose_measures(min_effects)
    opened = Store.open(cohort.store)
    pinned = PinnedRows.read(cohort.rows).unchanged_rows(opened)
    catalogue = opened.catalogue
    of_cohort = catalogue[catalogue["row"].isin(pinned)]
    known = set(of_cohort["patient_id"].astype(str))
    new = catalogue[~catalogue["patient_id"].astype(str).isin(known)]
    comparable: list[Comparison] = []
    too_few: list[str] = []
    for measure, before, now in [
        *_scans(measures, of_cohort, new),
        *_refusals(measures, cohort),
        *_scores(measures, cohort, predictions, known),
    ]:
        if min(len(before), len(now)) < min_patients:
            count = f"{len(before)} patients of the cohort, {len(now)} new"
            too_few.append(f"{measure.name}: too few to tell ({count}, {min_patients} needed)")
        else:
            comparable.append(compare(measure, before, now))
    comparisons = correct(comparable)
    summary = DriftSummary(
        champion=cohort.name,
        since=cohort.since,
        cohort_patients=len(known),
        new_patients=int(new["patient_id"].nunique()),
        new_series=len(new),
        alarms=tuple(describe(one) for one in comparisons if one.is_alarm(alpha)),
        too_few=tuple(too_few),
        comparisons=tuple(_to_row(one, alpha) for one in comparisons),
        alpha=alpha,
        report=str(out / REPORT),
        seconds=round(time.monotonic() - began, 3),
    )
    with translate_unwritable(out):
        out.mkdir(parents=True, exist_ok=True)
        atomic.write_text(out / REPORT, render(summary.to_json(), comparisons, alpha))
        atomic.write_text(out / SUMMARY, json.dumps(summary.to_json(), indent=1) + "\n")
    return summary


Sample = tuple[Measure, Sequence[Any], Sequence[Any]]
"""A measure, its values of the cohort's patients, and of the new ones."""


def _scans(
    measures: Mapping[str, Measure], cohort: pd.DataFrame, new: pd.DataFrame
) -> Iterator[Sample]:
    before, now = values_of_patients(cohort), values_of_patients(new)
    for name in before.columns:
        yield measures[name], before[name].dropna().tolist(), now[name].dropna().tolist()


def _refusals(measures: Mapping[str, Measure], cohort: ReferenceCohort) -> Iterator[Sample]:
    root = parent_storage(cohort.store)
    before, now = refused_patients(root, utc_seconds(cohort.since))
    yield measures["refused"], list(before.values()), list(now.values())


def _scores(
    measures: Mapping[str, Measure],
    cohort: ReferenceCohort,
    predictions: Sequence[Path],
    known: set[str],
) -> Iterator[Sample]:
    if not predictions:
        return
    before = scores.scores_of_run(cohort.run)
    tables = [scores.scores_of_prediction(folder, cohort.run) for folder in predictions]
    table = pd.concat(tables)
    now = table[~table.index.isin(known) & ~table.index.duplicated(keep="last")]
    measure = measures[SCORE]
    for group in before.columns:
        own = Measure(
            f"{SCORE}_{group}", measure.kind, f"{measure.label}, {group}", "", measure.min_effect
        )
        yield own, before[group].tolist(), now[group].tolist()


def _to_row(comparison: Comparison, alpha: float) -> dict[str, Any]:
    return {
        "measure": comparison.measure.name,
        "alarm": comparison.is_alarm(alpha),
        "effect": comparison.effect,
        "min_effect": comparison.measure.min_effect,
        "p": comparison.p,
        "p_holm": comparison.p_holm,
        "psi": comparison.psi,
        "cohort": len(comparison.cohort),
        "new": len(comparison.new),
    }


def _check(alpha: float, min_patients: int) -> None:
    if not 0 < alpha < 1:
        raise InputError(f"alpha: expected a number between 0 and 1, got {alpha}")
    if min_patients < 2:
        raise InputError(f"min patients: expected at least 2, got {min_patients}")
