"""The trials of an experiment of classifiers: what `run_experiment` needs of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from voco_models.data import Residence
from voco_models.experiments.checks import check_trials
from voco_models.experiments.comparison import Comparison, compare
from voco_models.experiments.declaration import Experiment
from voco_models.experiments.jobs import Trial, list_trials
from voco_models.experiments.page import render_report
from voco_models.experiments.results import Results
from voco_models.experiments.run_folders import TrialState, is_finished
from voco_models.experiments.running import run_trial
from voco_models.experiments.tables import (
    differences,
    label_curve,
    runs_table,
    table_1,
    table_2,
)


class ClassifierTrials:
    """Trials of arms, backbones, fractions of the labels and seeds."""

    def __init__(
        self, experiment: Experiment, pseudonymise: Callable[[str], str] | None = None
    ) -> None:
        self._experiment = experiment
        self._pseudonymise = pseudonymise
        self.out = Path(experiment.out)
        self.trials: Sequence[Trial] = list_trials(experiment, pseudonymise)

    def check(self) -> None:
        """Raise InputError for a run that cannot be trained."""
        check_trials(self.trials, self._pseudonymise)

    def is_finished(self, trial: Trial) -> bool:
        """Whether all runs of a trial exist."""
        return all(is_finished(job.folder, job.digest) for job in trial.jobs)

    def run(self, trial: Trial, resident: Residence) -> TrialState:
        """Train and score what a trial lacks."""
        return run_trial(trial, resident=resident, pseudonymise=self._pseudonymise)

    def compare(self, states: Mapping[Trial, str]) -> Results:
        """Compare the finished runs; `states` are what `run` returned."""
        comparison = compare(self.trials, self._experiment.reference)
        single_organ = [name for name, arm in self._experiment.arms.items() if arm.organ_stores]
        named = {
            "Table 1": table_1(comparison),
            "Table 2": table_2(comparison, single_organ),
            "Differences": differences(comparison),
            "Fractions of the labels": label_curve(comparison),
        }
        runs = runs_table(self.trials, comparison, states)
        return Results(
            tables=named,
            runs=runs,
            page=render_report(comparison, named, runs),
            test_patients=comparison.test_patients,
            scores=_list_scores(comparison),
        )


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
