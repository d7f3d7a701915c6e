"""The stage of comparison: two fine-tuning runs on the test patients that neither was trained on.

OUT/comparison.json   the differences, with intervals
OUT/comparison.html   a self-contained page
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from voco_data.errors import InputError, VocoError
from voco_data.qc import html
from voco_data.storage import atomic
from voco_data.withdrawal import Withdrawals
from voco_models.evaluation import (
    POWER_FORMULA,
    RESAMPLES,
    Scored,
    check_matplotlib,
    compare,
    comparison_page,
    looks,
    predictions,
    read_decision,
    report,
)
from voco_models.stages.evaluation import (
    BOOTSTRAP_SEED,
    check_folder,
    classes_by_group,
    make_arms,
    read_description,
    read_labels_of_run,
    targets_of,
    targets_with_loss_weights,
)

JSON, PAGE = "comparison.json", "comparison.html"


@dataclass(frozen=True, slots=True)
class ComparisonSummary:
    """The differences between two runs, and the files with them."""

    run: Path
    against: Path
    comparison: Path
    report: Path
    patients: int
    """Test patients that neither run was trained on."""
    withdrawn: int
    """Test patients who were forgotten since the runs were made; of two numbers the larger."""
    differences: list[dict[str, Any]]
    """A row a score: both values and their difference (run less against), each with its interval,
    and the smallest difference that could have been shown."""
    undefined: list[str]
    """Scores without a value on these patients."""
    corrected_labels: int = 0
    """Patients whose labels differ between the runs; those of `run` count."""

    def to_json(self) -> dict[str, object]:
        """The summary as plain values."""
        return {
            "run": str(self.run),
            "against": str(self.against),
            "comparison": str(self.comparison),
            "report": str(self.report),
            "patients": self.patients,
            "withdrawn": self.withdrawn,
            "smallest_difference": POWER_FORMULA,
            "differences": self.differences,
            "undefined": self.undefined,
            "corrected_labels": self.corrected_labels,
        }


@dataclass(frozen=True, slots=True)
class _Run:
    """What a comparison needs of a run."""

    folder: Path
    description: dict[str, Any]
    test: pd.DataFrame
    """Patient lines of the test set, by `patient_id`."""
    trained_on: frozenset[str]
    labels: pd.DataFrame
    """Classes of all patients of the run, by `patient_id`."""

    def score(self, patients: list[str], groups: list[str]) -> Scored:
        """The run's calibrated predictions for some of its test patients."""
        lines = self.test.loc[patients]
        targets = targets_of(self.description)
        decision = read_decision(self.folder, targets)
        training = classes_by_group(self.labels.loc[sorted(self.trained_on)][groups])
        truths = classes_by_group(self.labels.loc[patients][groups])
        arms = make_arms(lines, decision, training, truths, targets)
        raw = predictions.group_probabilities(lines, targets)
        weighted = targets_with_loss_weights(self.description)
        return Scored(arms["model"], decision.classify(raw), weighted)


def compare_runs(
    run: str | Path,
    against: str | Path,
    out: str | Path | None = None,
    *,
    corrected: bool = False,
) -> ComparisonSummary:
    """Compare two runs by the paired differences of their scores. `out` is the first run if None.

    With `corrected`, labels may have been corrected between the runs: both are scored by those of
    `run`, and the patients are counted.

    Raises InputError if one is no finished fine-tuning run, if there is no test patient that
    neither was trained on, if their labels differ, and if a decision or predictions changed since
    the test set was opened. Raises VocoError if the files cannot be written.
    """
    check_matplotlib()  # before the test sets are opened: the page needs it
    folders = Path(run), Path(against)
    target = folders[0] if out is None else Path(out)
    check_folder(target)
    first, second = _read_run(folders[0]), _read_run(folders[1])
    _check_groups(first, second)
    patients = _find_patients(first, second)
    groups, differ = _shared_groups(first, second, patients)
    if differ and not corrected:
        raise InputError(
            f"{first.folder}, {second.folder}: expected the same labels, but {differ} of "
            f"{len(patients)} test patients have other ones; fine-tune both with one label table"
        )
    with looks.hold_records(*folders):
        return _compare(first, second, patients, groups, target, differ)


def _compare(
    first: _Run,
    second: _Run,
    patients: list[str],
    groups: list[str],
    target: Path,
    corrected_labels: int,
) -> ComparisonSummary:
    """As `compare_runs`, while no other process opens the test sets."""
    runs, folders = (first, second), (first.folder, second.folder)
    openings = [
        looks.open_for_comparison(folder, target, other)
        for folder, other in (folders, folders[::-1])
    ]
    found = compare(
        first.score(patients, groups),
        second.score(patients, groups),
        classes_by_group(first.labels.loc[patients][groups]),
        np.random.default_rng(BOOTSTRAP_SEED),
    )
    undefined = [name for name, d in found.items() if d is None]
    gone = [Withdrawals.read(folder).count("test") for folder in folders]
    results = {
        "patients": len(patients),
        "left_out": [len(one.test) - len(patients) for one in runs],
        "corrected_labels": corrected_labels,
        "resamples": RESAMPLES,
        "smallest_difference": POWER_FORMULA,
        "runs": [_describe(one) for one in runs],
        "test_sets": [
            {
                "looks": opening.evaluations,
                "comparisons": opening.comparisons,
                "withdrawn": withdrawn,
            }
            for opening, withdrawn in zip(openings, gone, strict=True)
        ],
        "differences": {name: d.to_json() for name, d in found.items() if d is not None},
        "undefined": undefined,
    }
    try:
        target.mkdir(parents=True, exist_ok=True)
        atomic.write_text(target / JSON, json.dumps(results, indent=2, allow_nan=False) + "\n")
        for opening in openings:
            opening.record()
        page = html.render_page(
            "Comparison of two injury classifiers",
            comparison_page.make_sections(results),
            lead=comparison_page.make_lead(results),
        )
        atomic.write_text(target / PAGE, page)
    except OSError as error:
        raise VocoError(f"{target}: cannot write the comparison ({error.strerror})") from error
    return ComparisonSummary(
        run=folders[0],
        against=folders[1],
        comparison=target / JSON,
        report=target / PAGE,
        patients=len(patients),
        withdrawn=max(gone),
        differences=[
            {
                "score": name,
                "run": d.first.value,
                "run_low": d.first.low,
                "run_high": d.first.high,
                "against": d.second.value,
                "against_low": d.second.low,
                "against_high": d.second.high,
                "difference": d.difference.value,
                "low": d.difference.low,
                "high": d.difference.high,
                "smallest": d.smallest,
                "better": d.better,
                "verdict": d.verdict,
            }
            for name, d in found.items()
            if d is not None
        ],
        undefined=undefined,
        corrected_labels=corrected_labels,
    )


def _read_run(folder: Path) -> _Run:
    description = read_description(folder)
    table = predictions.read_predictions(folder / predictions.FILE, targets_of(description))
    test = predictions.patient_lines(table, "test").set_index("patient_id", drop=False)
    labels = read_labels_of_run(folder)
    trained_on = frozenset(labels.index) - frozenset(test.index)
    return _Run(folder, description, test, trained_on, labels)


def _check_groups(first: _Run, second: _Run) -> None:
    """Raise InputError unless both runs predict the same groups."""
    names, others = (", ".join(targets_of(run.description).names) for run in (first, second))
    if names != others:
        raise InputError(
            f"{first.folder} predicts {names}, and {second.folder} {others}; fine-tune both with "
            "the same groups"
        )


def _find_patients(first: _Run, second: _Run) -> list[str]:
    """Test patients of both runs that neither was trained on, sorted. InputError if none."""
    shared = set(first.test.index) & set(second.test.index)
    patients = sorted(shared - first.trained_on - second.trained_on)
    if not patients:
        raise InputError(
            f"{first.folder}, {second.folder}: expected test patients that neither run was trained "
            f"on, found none among {len(first.test)} and {len(second.test)}; fine-tune both with "
            "one --split"
        )
    return patients


def _shared_groups(first: _Run, second: _Run, patients: list[str]) -> tuple[list[str], int]:
    """The groups that both label tables have, and how many patients have other classes in one."""
    groups = [
        name for name in classes_by_group(first.labels) if name in classes_by_group(second.labels)
    ]
    one, other = (run.labels.loc[patients][groups].to_numpy() for run in (first, second))
    return groups, int((one != other).any(axis=1).sum())


def _describe(run: _Run) -> dict[str, Any]:
    """What the page says about a run."""
    exposure = report.exposure_of(run.description, len(run.test))
    return {
        "folder": str(run.folder),
        "recipe": run.description["recipe"]["name"],
        "backbone": run.description["recipe"]["backbone"],
        "init": run.description["init"],
        "test_patients": len(run.test),
        "training_patients": len(run.trained_on),
        "pretraining": exposure.sentence,
    }
