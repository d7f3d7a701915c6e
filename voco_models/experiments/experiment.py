"""The stage of experiments: trains what is missing, then compares all runs.

OUT/runs.csv        one line for each run, with its scores
OUT/tables.md       Table 1 in the paper's form, differences, scores by fraction of the labels
OUT/report.html     the same as a page
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from voco_data.errors import VocoError
from voco_data.storage import atomic
from voco_models.data import Residence
from voco_models.experiments.checks import check_trials
from voco_models.experiments.comparison import Comparison, compare
from voco_models.experiments.declaration import Experiment, read_experiment
from voco_models.experiments.jobs import Trial, list_trials
from voco_models.experiments.page import render_report
from voco_models.experiments.running import is_finished, run_trial
from voco_models.experiments.tables import (
    differences,
    format_table,
    label_curve,
    runs_table,
    table_1,
    table_2,
)

log = logging.getLogger(__name__)

RUNS_TABLE, TABLES, REPORT = "runs.csv", "tables.md", "report.html"


@dataclass(frozen=True, slots=True)
class ExperimentSummary:
    """What an experiment has done, and its files."""

    out: Path
    trials: int
    """Arms x backbones x fractions of the labels x seeds."""
    reused: int
    """Trials whose runs existed."""
    continued: int
    """Trials with a run that had been stopped."""
    trained: int
    missing: int
    """With `plan_only`: trials whose runs do not exist yet, or not all of them."""
    test_patients: int | None
    scores: list[dict[str, object]]
    """By arm, backbone and fraction of the labels: each score with its interval; see `Score`."""
    tables: Path | None
    report: Path | None
    seconds: float

    def to_json(self) -> dict[str, object]:
        """The summary as plain values."""
        return asdict(self) | {
            name: None if path is None else str(path)
            for name, path in (("out", self.out), ("tables", self.tables), ("report", self.report))
        }


def run_experiment(
    declaration: str | Path | Experiment,
    *,
    plan_only: bool = False,
    resident: Residence = "none",
    pseudonymise: Callable[[str], str] | None = None,
    run: Callable[[Trial], str] | None = None,
) -> ExperimentSummary:
    """Train, score and compare all runs of an experiment. Runs that exist are reused.

    Parameters
    ----------
    declaration : a `.toml` file, or an experiment.
    plan_only : list the runs that exist and those that are missing, and train nothing.
    resident : keep volumes in memory in training.
    pseudonymise : function from patient ids of the labels to those of the store.
    run : runs one trial, and returns its state; `run_trial` by default.

    Raises
    ------
    InputError : for a declaration that is not possible, before anything is trained.
    """
    start = time.perf_counter()
    experiment = (
        declaration if isinstance(declaration, Experiment) else read_experiment(declaration)
    )
    trials = list_trials(experiment, pseudonymise)
    check_trials(trials, pseudonymise)
    if plan_only:
        return _list_only(experiment, trials, start)

    def run_here(trial: Trial) -> str:
        return run_trial(trial, resident=resident, pseudonymise=pseudonymise)

    states: dict[Trial, str] = {}
    for number, trial in enumerate(trials, 1):
        log.info("trial %d of %d: %s", number, len(trials), trial.name)
        states[trial] = (run or run_here)(trial)
    comparison = compare(trials, experiment.reference)
    out = Path(experiment.out)
    single_organ = [name for name, arm in experiment.arms.items() if arm.organ_stores]
    _write_results(out, trials, comparison, states, single_organ)
    counts = Counter(states.values())
    return ExperimentSummary(
        out=out,
        trials=len(trials),
        reused=counts["reused"],
        continued=counts["continued"],
        trained=counts["trained"],
        missing=0,
        test_patients=comparison.test_patients,
        scores=_list_scores(comparison),
        tables=out / TABLES,
        report=out / REPORT,
        seconds=time.perf_counter() - start,
    )


def _list_only(experiment: Experiment, trials: Sequence[Trial], start: float) -> ExperimentSummary:
    """Log which trials exist."""
    exists = {t: all(is_finished(job.folder, job.digest) for job in t.jobs) for t in trials}
    for trial in trials:
        log.info("%s: %s", trial.name, "exists" if exists[trial] else "missing")
    return ExperimentSummary(
        out=Path(experiment.out),
        trials=len(trials),
        reused=sum(exists.values()),
        continued=0,
        trained=0,
        missing=len(trials) - sum(exists.values()),
        test_patients=None,
        scores=[],
        tables=None,
        report=None,
        seconds=time.perf_counter() - start,
    )


def _write_results(
    out: Path,
    trials: Sequence[Trial],
    comparison: Comparison,
    states: Mapping[Trial, str],
    single_organ: Sequence[str],
) -> None:
    """Write the tables and the page, and log the tables."""
    named = {
        "Table 1": table_1(comparison),
        "Table 2": table_2(comparison, single_organ),
        "Differences": differences(comparison),
        "Fractions of the labels": label_curve(comparison),
    }
    texts = [f"## {name}\n\n{format_table(rows)}" for name, rows in named.items() if rows]
    runs = runs_table(trials, comparison, states)
    try:
        atomic.write_text(out / RUNS_TABLE, runs.to_csv(index=False))
        atomic.write_text(out / TABLES, "\n\n".join(texts) + "\n")
        atomic.write_text(out / REPORT, render_report(comparison, named, runs))
    except OSError as error:
        raise VocoError(f"{out}: cannot write the results ({error.strerror})") from error
    log.info("%s", "\n\n".join(texts))


def _list_scores(comparison: Comparison) -> list[dict[str, object]]:
    return [
        {
            "arm": cell.arm,
            "backbone": cell.backbone,
            "label_fraction": cell.label_fraction,
            "labelled_patients": comparison.labelled[cell],
        }
        | {name: asdict(score) for name, score in scores.items()}
        for cell, scores in comparison.scores.items()
    ]
