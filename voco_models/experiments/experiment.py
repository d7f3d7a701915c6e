"""The stage of experiments: trains what is missing, then compares all runs; see `results`."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from voco_models.data import Residence
from voco_models.experiments import running
from voco_models.experiments.classifier_trials import ClassifierTrials
from voco_models.experiments.declaration import Experiment, read_experiment
from voco_models.experiments.jobs import Trial
from voco_models.experiments.projections.declaration import ProjectionExperiment
from voco_models.experiments.projections.jobs import ProjectionTrial
from voco_models.experiments.projections.running import run_projection_trial
from voco_models.experiments.projections.trials import ProjectionTrials
from voco_models.experiments.results import REPORT, TABLES, Results
from voco_models.experiments.run_folders import TrialState

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ExperimentSummary:
    """What an experiment has done, and its files."""

    out: Path
    trials: int
    """Arms x seeds x fractions of the labels or numbers of masks x backbones."""
    reused: int
    """Trials whose runs existed."""
    continued: int
    """Trials with a run that had been stopped."""
    trained: int
    missing: int
    """With `plan_only`: trials whose runs do not exist yet, or not all of them."""
    test_patients: int | None
    scores: list[dict[str, object]]
    """By arm, and by backbone and fraction of the labels, or masks: each score with its interval;
    see `Score`."""
    tables: Path | None
    report: Path | None
    seconds: float

    def to_json(self) -> dict[str, object]:
        """The summary as plain values."""
        return asdict(self) | {
            name: None if path is None else str(path)
            for name, path in (("out", self.out), ("tables", self.tables), ("report", self.report))
        }


class NamedTrial(Protocol):
    """A trial, as messages have it."""

    @property
    def name(self) -> str:
        """Its place in the tables."""


T = TypeVar("T", bound=NamedTrial)


class TrialSet(Protocol[T]):
    """All trials of an experiment of one stage."""

    out: Path
    trials: Sequence[T]
    """In the order in which they are run."""

    def check(self) -> None:
        """Raise InputError for a run that cannot be trained."""

    def is_finished(self, trial: T) -> bool:
        """Whether all runs of a trial exist."""

    def run(self, trial: T, resident: Residence) -> TrialState:
        """Train and score what a trial lacks."""

    def compare(self, states: Mapping[T, str]) -> Results:
        """Compare the finished runs; `states` are what `run` returned."""


def run_experiment(
    declaration: str | Path | Experiment | ProjectionExperiment,
    *,
    plan_only: bool = False,
    resident: Residence = "none",
    pseudonymise: Callable[[str], str] | None = None,
    run: Callable[[Trial | ProjectionTrial], str] | None = None,
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
        read_experiment(declaration) if isinstance(declaration, str | Path) else declaration
    )
    if isinstance(experiment, ProjectionExperiment):
        projections = ProjectionTrials(experiment)
        return _run_all(projections, run, plan_only=plan_only, resident=resident, start=start)
    classifiers = ClassifierTrials(experiment, pseudonymise)
    return _run_all(classifiers, run, plan_only=plan_only, resident=resident, start=start)


def run_trial(
    trial: Trial | ProjectionTrial,
    *,
    resident: Residence = "none",
    pseudonymise: Callable[[str], str] | None = None,
) -> TrialState:
    """Train and score the runs of a trial; only what is missing.

    Returns `reused` if all existed, `continued` if one had been stopped, else `trained`.
    """
    if isinstance(trial, ProjectionTrial):
        return run_projection_trial(trial, resident=resident)
    return running.run_trial(trial, resident=resident, pseudonymise=pseudonymise)


def _run_all(
    work: TrialSet[T],
    run: Callable[[T], str] | None,
    *,
    plan_only: bool,
    resident: Residence,
    start: float,
) -> ExperimentSummary:
    work.check()
    if plan_only:
        return _list_only(work, start)
    states: dict[T, str] = {}
    for number, trial in enumerate(work.trials, 1):
        log.info("trial %d of %d: %s", number, len(work.trials), trial.name)
        states[trial] = work.run(trial, resident) if run is None else run(trial)
    results = work.compare(states)
    results.write(work.out)
    counts = Counter(states.values())
    return ExperimentSummary(
        out=work.out,
        trials=len(work.trials),
        reused=counts["reused"],
        continued=counts["continued"],
        trained=counts["trained"],
        missing=0,
        test_patients=results.test_patients,
        scores=results.scores,
        tables=work.out / TABLES,
        report=work.out / REPORT,
        seconds=time.perf_counter() - start,
    )


def _list_only(work: TrialSet[T], start: float) -> ExperimentSummary:
    """Log which trials exist."""
    exists = [work.is_finished(trial) for trial in work.trials]
    for trial, is_there in zip(work.trials, exists, strict=True):
        log.info("%s: %s", trial.name, "exists" if is_there else "missing")
    return ExperimentSummary(
        out=work.out,
        trials=len(exists),
        reused=sum(exists),
        continued=0,
        trained=0,
        missing=len(exists) - sum(exists),
        test_patients=None,
        scores=[],
        tables=None,
        report=None,
        seconds=time.perf_counter() - start,
    )
