"""The trials of an experiment of 3D-to-2D networks: what `run_experiment` needs of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from voco_models.data import Residence
from voco_models.evaluation import check_matplotlib
from voco_models.experiments.projections.checks import check_projection_trials
from voco_models.experiments.projections.comparison import (
    ALL,
    SCORES,
    ProjectionComparison,
    compare_projections,
)
from voco_models.experiments.projections.declaration import ProjectionExperiment
from voco_models.experiments.projections.jobs import ProjectionTrial, list_projection_trials
from voco_models.experiments.projections.page import render_projection_report
from voco_models.experiments.projections.pictures import draw_pictures
from voco_models.experiments.projections.running import run_projection_trial
from voco_models.experiments.projections.tables import (
    DIFFERENCES,
    difference_table,
    organ_table,
    runs_table,
    score_tables,
)
from voco_models.experiments.results import Results
from voco_models.experiments.run_folders import TrialState, is_finished


class ProjectionTrials:
    """Trials of arms, numbers of masks and seeds."""

    def __init__(self, experiment: ProjectionExperiment) -> None:
        self._reference = experiment.reference
        self.out = Path(experiment.out)
        self.trials: Sequence[ProjectionTrial] = list_projection_trials(experiment)

    def check(self) -> None:
        """Raise InputError for a run that cannot be trained."""
        check_matplotlib()
        check_projection_trials(self.trials)

    def is_finished(self, trial: ProjectionTrial) -> bool:
        """Whether the run of a trial exists."""
        return is_finished(trial.job.folder, trial.job.digest)

    def run(self, trial: ProjectionTrial, resident: Residence) -> TrialState:
        """Train and score what a trial lacks."""
        return run_projection_trial(trial, resident=resident)

    def compare(self, states: Mapping[ProjectionTrial, str]) -> Results:
        """Compare the finished runs; `states` are what `run` returned."""
        comparison = compare_projections(self.trials, self._reference)
        tables = score_tables(comparison) | {
            DIFFERENCES: difference_table(comparison),
            "Organs": organ_table(comparison),
        }
        runs = runs_table(self.trials, comparison, states)
        pictures = draw_pictures(self.trials)
        return Results(
            tables=tables,
            runs=runs,
            page=render_projection_report(comparison, tables, runs, pictures),
            test_patients=comparison.test_patients,
            scores=_list_scores(comparison),
        )


def _list_scores(comparison: ProjectionComparison) -> list[dict[str, object]]:
    return [
        {"arm": cell.arm, "masks": cell.masks}
        | {name: asdict(scores[name, ALL]) for name in SCORES}
        | {
            "organs": {
                organ: {name: scores[name, organ].mean.value for name in SCORES}
                for organ in comparison.organs
            }
        }
        for cell, scores in comparison.scores.items()
    ]
