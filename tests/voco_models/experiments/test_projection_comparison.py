"""Scores and intervals of 3D-to-2D networks on outcomes that were made by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from voco_models.evaluation.bootstrap import RESAMPLES
from voco_models.evaluation.comparison import POWER_FACTOR
from voco_models.experiments.projections.comparison import (
    ALL,
    BOUNDARY,
    DICE,
    HD95,
    NOT_FOUND,
    Outcome,
    make_outcome,
    score_outcome,
    weighted_medians,
)
from voco_models.experiments.resampling import (
    SEED,
    patient_counts,
    seed_shares,
    summarise,
)

INF, NAN = float("inf"), float("nan")


def organ_line(patient: str, organ: str, **values: Any) -> dict[str, Any]:
    """A line of `organ_scores.parquet`."""
    return {
        "patient_id": patient, "series_uid": f"{patient}.1", "organ": organ,
        "dice_coronal": 1.0, "dice_sagittal": 1.0,
        "hd95_coronal_mm": 0.0, "hd95_sagittal_mm": 0.0,
        "worst_coronal_mm": 500.0, "worst_sagittal_mm": 400.0,
        "is_found": True, "has_extent": True,
    } | values  # fmt: skip


def face_line(patient: str, organ: str, error_mm: float) -> dict[str, Any]:
    """A line of `face_errors.parquet`."""
    return {
        "patient_id": patient, "series_uid": f"{patient}.1", "organ": organ,
        "face": "z_low", "error_mm": error_mm, "worst_mm": 300.0,
    }  # fmt: skip


def outcome_of(lines: list[dict[str, Any]], faces: list[dict[str, Any]]) -> Outcome:
    return make_outcome(pd.DataFrame(lines), pd.DataFrame(faces))


LINES = [
    organ_line("a", "liver", dice_coronal=0.9, dice_sagittal=0.7, hd95_coronal_mm=4.0),
    organ_line("b", "liver", dice_coronal=0.5, dice_sagittal=0.1, hd95_sagittal_mm=8.0),
    organ_line("b", "spleen", dice_coronal=0.4, dice_sagittal=0.2),
    organ_line(
        "c", "spleen", dice_coronal=0.0, dice_sagittal=0.0, is_found=False,
        hd95_coronal_mm=INF, hd95_sagittal_mm=INF,
    ),
    # Not in the scan of c, where the run has invented it.
    organ_line("c", "liver", dice_coronal=0.0, hd95_coronal_mm=INF, has_extent=False),
]  # fmt: skip
FACES = [
    face_line("a", "liver", 2.0),
    face_line("a", "liver", -6.0),
    face_line("b", "liver", 1.0),
    face_line("b", "spleen", -3.0),
    face_line("c", "spleen", NAN),
]


def test_scores_are_means_over_patients_then_over_organs() -> None:
    scores = score_outcome(outcome_of(LINES, FACES), np.ones((1, 3)))
    assert {key[1] for key in scores} == {ALL, "liver", "spleen"}
    assert scores[DICE, "liver"] == pytest.approx((0.8 + 0.3) / 2)
    assert scores[DICE, "spleen"] == pytest.approx((0.3 + 0.0) / 2)
    assert scores[DICE, ALL] == pytest.approx((0.55 + 0.15) / 2)


def test_what_is_not_found_counts_as_far_off_as_it_can_be() -> None:
    scores = score_outcome(outcome_of(LINES, FACES), np.ones((1, 3)))
    assert scores[HD95, "liver"] == pytest.approx((4 / 2 + 8 / 2) / 2)
    assert scores[HD95, "spleen"] == pytest.approx((0 + (500 + 400) / 2) / 2)
    assert scores[BOUNDARY, "liver"] == 2
    assert scores[BOUNDARY, "spleen"] == (3 + 300) / 2
    assert scores[BOUNDARY, ALL] == 3
    assert scores[NOT_FOUND, ALL] == 1 / 4
    assert scores[NOT_FOUND, "liver"] == 0
    assert scores[NOT_FOUND, "spleen"] == 1 / 2


def test_the_series_of_a_patient_are_joined() -> None:
    """Two series of one patient weigh as much as one of another in means."""
    lines = [
        organ_line("a", "liver", series_uid="1", dice_coronal=0.2, dice_sagittal=0.2),
        organ_line("a", "liver", series_uid="2", dice_coronal=0.4, dice_sagittal=0.4),
        organ_line("b", "liver", dice_coronal=0.9, dice_sagittal=0.9),
    ]
    scores = score_outcome(outcome_of(lines, FACES[:1]), np.ones((1, 2)))
    assert scores[DICE, ALL] == pytest.approx((0.3 + 0.9) / 2)


def test_resamples_count_patients_as_often_as_they_are_drawn() -> None:
    """As if the lines of each patient were there so often."""
    outcome = outcome_of(LINES, FACES)
    scores = score_outcome(outcome, np.array([[1, 1, 1], [0, 3, 0], [2, 0, 1], [3, 0, 0]]))
    np.testing.assert_allclose(scores[DICE, "liver"], [0.55, 0.3, 0.8, 0.8])
    np.testing.assert_allclose(scores[DICE, "spleen"], [0.15, 0.3, 0.0, NAN])
    np.testing.assert_allclose(scores[DICE, ALL], [0.35, 0.3, 0.4, NAN])
    np.testing.assert_allclose(scores[BOUNDARY, ALL], [3, 2, 6, 4])
    np.testing.assert_allclose(scores[NOT_FOUND, ALL], [1 / 4, 0, 1 / 3, 0])


def test_medians_are_those_of_repeated_values() -> None:
    rng = np.random.default_rng(3)
    values, patients = rng.normal(size=41), rng.integers(0, 7, 41)
    counts = rng.multinomial(7, np.full(7, 1 / 7), size=600).astype(float)
    expected = [np.median(np.repeat(values, row.astype(int)[patients])) for row in counts]
    np.testing.assert_allclose(weighted_medians(values, counts, patients), expected)
    assert np.isnan(weighted_medians(values, np.zeros((1, 7)), patients)).all()
    assert np.isnan(weighted_medians(values[:0], counts, patients[:0])).all()


def dice_outcome(dice: np.ndarray[Any, Any]) -> Outcome:
    """An outcome of one organ with a Dice for each patient."""
    lines = [
        organ_line(f"{i:03d}", "liver", dice_coronal=d, dice_sagittal=d) for i, d in enumerate(dice)
    ]
    return outcome_of(lines, [face_line("000", "liver", 1.0)])


def test_intervals_are_those_of_paired_patients() -> None:
    """Patients differ much, and the second arm is better by 0.05 in each: the interval of the
    difference is a point, and that of the mean has its standard error."""
    rng = np.random.default_rng(0)
    own = rng.uniform(0.2, 0.9, 40)
    counts = patient_counts(40, np.random.default_rng(SEED))
    values = [
        score_outcome(dice_outcome(dice), counts)[DICE, ALL][None] for dice in (own, own - 0.05)
    ]
    shares = seed_shares(1, np.random.default_rng(0))
    score = summarise(values[0], values[1], shares, lower_is_better=False)
    assert score.mean.value == pytest.approx(own.mean())
    error = own.std() / np.sqrt(40)
    assert score.mean.high - score.mean.low == pytest.approx(2 * 1.96 * error, rel=0.07)
    assert score.gain is not None
    assert score.gain.low == pytest.approx(score.gain.high)
    assert score.gain.value == pytest.approx(0.05)
    assert score.detectable == pytest.approx(0, abs=1e-9)
    lower = summarise(values[0], values[1], shares, lower_is_better=True)
    assert lower.gain is not None
    assert lower.gain.value == pytest.approx(-0.05)


def test_the_smallest_difference_is_of_the_spread_of_paired_differences() -> None:
    """Over patients and seeds: variances add."""
    rng = np.random.default_rng(1)
    patients, seeds = rng.normal(0, 0.1, 50), rng.normal(0, 0.03, 8)
    counts = patient_counts(50, np.random.default_rng(SEED))
    own = np.stack(
        [score_outcome(dice_outcome(0.5 + patients + s), counts)[DICE, ALL] for s in seeds]
    )
    other = np.full((8, 1 + RESAMPLES), 0.5)
    score = summarise(own, other, seed_shares(8, rng), lower_is_better=False)
    error = np.sqrt(patients.var() / 50 + seeds.var(ddof=1) / 8)
    assert score.detectable == pytest.approx(POWER_FACTOR * error, rel=0.06)
    assert score.by_seed == pytest.approx(0.5 + patients.mean() + seeds)


def test_a_score_of_nothing_is_no_number() -> None:
    nothing = np.full((1, 1 + RESAMPLES), NAN)
    score = summarise(
        nothing, nothing, seed_shares(1, np.random.default_rng(0)), lower_is_better=True
    )
    assert np.isnan([score.mean.value, score.mean.low, score.detectable]).all()
