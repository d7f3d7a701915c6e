"""Lines of series, studies and patients, refused series, and the submission."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from voco_data.labels.targets import ORGAN_TARGETS, RSNA_TARGETS
from voco_models.evaluation.calibration import Calibration
from voco_models.evaluation.decision import Decision, Thresholds
from voco_models.prediction.abstention import Abstention, GroupAbstention
from voco_models.prediction.tables import (
    make_series_lines,
    make_submission,
    make_table,
    table_columns,
    write_table,
)

SAMPLE_SUBMISSION = (
    "patient_id,bowel_healthy,bowel_injury,extravasation_healthy,extravasation_injury,"
    "kidney_healthy,kidney_low,kidney_high,liver_healthy,liver_low,liver_high,"
    "spleen_healthy,spleen_low,spleen_high"
)
"""First line of the competition's file."""
REFUSED_COLUMNS = ["kind", "source", "reason", "detail", "patient_id", "study_uid", "series_uid"]


def rule(margin: float) -> Abstention:
    return Abstention({name: GroupAbstention(margin, 10, 1, 9, 0) for name in ORGAN_TARGETS.names})


def decision() -> Decision:
    thresholds = dict.fromkeys(ORGAN_TARGETS.names, (0.5, 0.3, 0.2))
    return Decision(Calibration.identity(), Thresholds(thresholds))


def series_lines() -> pd.DataFrame:
    """Patient a has two studies, of two series and one; patient b has one series."""
    series = pd.DataFrame(
        {
            "patient_id": ["a", "a", "a", "b"],
            "study_uid": ["1", "1", "2", "1"],
            "series_uid": ["s0", "s1", "s2", "s3"],
            "source": ["f0", "f1", "f2", "f3"],
            "box_confidence": [0.9, 0.8, 0.9, 0.3],
            "flags": ["x", "", "y x", ""],
        }
    )
    p = np.array([[0.8, 0.1, 0.1], [0.6, 0.2, 0.2], [0.1, 0.2, 0.7], [0.45, 0.35, 0.2]])
    return make_series_lines(series, dict.fromkeys(ORGAN_TARGETS.names, p), ORGAN_TARGETS)


def refused_rows() -> pd.DataFrame:
    rows = [
        ("series", "f9", "missing_slices", "a gap", "a", "1", "s9"),
        ("series", "f8", "too_few_slices", "2 slices", "c", "5", "s8"),
        ("file", "f7/x.dcm", "unreadable", "truncated", "", "", ""),
    ]
    return pd.DataFrame(rows, columns=REFUSED_COLUMNS)


@pytest.fixture
def table() -> pd.DataFrame:
    return make_table(
        series_lines(),
        refused_rows(),
        aggregate="mean",
        decision=decision(),
        abstention=rule(0.05),
    )


def line(table: pd.DataFrame, level: str, **ids: str) -> pd.Series:
    chosen = table[table["level"] == level]
    for name, value in ids.items():
        chosen = chosen[chosen[name] == value]
    assert len(chosen) == 1
    return chosen.iloc[0]


def test_studies_and_patients_are_means_of_their_series(table: pd.DataFrame) -> None:
    study = line(table, "study", patient_id="a", study_uid="1")
    assert study[["raw_liver_healthy", "raw_liver_low", "raw_liver_high"]].tolist() == (
        pytest.approx([0.7, 0.15, 0.15])
    )
    patient = line(table, "patient", patient_id="a")
    assert patient["raw_liver_healthy"] == pytest.approx(0.5)
    assert patient["raw_liver_high"] == pytest.approx(1 / 3)
    assert (patient["n_series"], study["n_series"]) == (3, 2)
    assert (patient["box_confidence"], patient["flags"]) == (0.8, "x y")
    # Ratios to the thresholds: 1, 5 / 9 and 5 / 3, so the class is high, at log((5 / 3) / 1).
    assert patient["predicted_liver"] == "high"
    assert patient["margin_liver"] == pytest.approx(np.log(5 / 3))


def test_max_takes_the_series_with_most_injury() -> None:
    found = make_table(
        series_lines(),
        refused_rows(),
        aggregate="max",
        decision=decision(),
        abstention=rule(0.0),
    )
    columns = ["raw_spleen_healthy", "raw_spleen_low", "raw_spleen_high"]
    assert line(found, "patient", patient_id="a")[columns].tolist() == [0.1, 0.2, 0.7]
    assert line(found, "study", patient_id="a", study_uid="1")[columns].tolist() == [0.6, 0.2, 0.2]


def test_a_small_margin_and_a_fallback_box_abstain(table: pd.DataFrame) -> None:
    assert line(table, "patient", patient_id="a")["abstained_liver"] == ""
    assert line(table, "patient", patient_id="b")["abstained_liver"] == "fallback_box"
    assert line(table, "patient", patient_id="b")["predicted_liver"] == "low"  # 0.35 / 0.3
    wide = make_table(
        series_lines(),
        refused_rows(),
        aggregate="mean",
        decision=decision(),
        abstention=rule(0.6),
    )
    assert line(wide, "patient", patient_id="a")["abstained_liver"] == "near_another_class"
    assert line(wide, "series", series_uid="s2")["abstained_liver"] == ""  # log(3.5 / (2 / 3))


def test_refused_series_are_listed_with_their_reasons(table: pd.DataFrame) -> None:
    assert list(table.columns) == table_columns(ORGAN_TARGETS)
    assert line(table, "series", series_uid="s9")["reason"] == "missing_slices"
    assert line(table, "file")[["source", "detail"]].tolist() == ["f7/x.dcm", "truncated"]
    assert line(table, "series", series_uid="s2")["source"] == "f2"
    assert line(table, "patient", patient_id="a")["status"] == "predicted"
    alone = line(table, "patient", patient_id="c")
    assert (alone["status"], alone["reason"], alone["n_series"]) == ("refused", "too_few_slices", 0)
    assert np.isnan(alone["calibrated_liver_healthy"])
    assert alone["predicted_liver"] == alone["abstained_liver"] == ""
    assert sorted(table.loc[table["level"] == "patient", "patient_id"]) == ["a", "b", "c"]


def test_the_submission_has_the_columns_of_the_competition(
    table: pd.DataFrame, tmp_path: Path
) -> None:
    priors = {
        "bowel": np.array([0.98, 0.02]),
        "liver": np.array([0.9, 0.07, 0.03]),
        "kidney": np.array([0.9, 0.07, 0.03]),
        "spleen": np.array([0.9, 0.07, 0.03]),
    }
    submission = make_submission(table, priors, ORGAN_TARGETS)
    write_table(tmp_path / "submission.csv", submission)
    assert (tmp_path / "submission.csv").read_text().splitlines()[0] == SAMPLE_SUBMISSION
    read = pd.read_csv(tmp_path / "submission.csv").set_index("patient_id")
    assert list(read.index) == ["a", "b", "c"]
    assert read["bowel_injury"].tolist() == [0.02] * 3
    assert read["extravasation_injury"].isna().all()  # the labels do not have this group
    assert read.loc["a", "liver_high"] == pytest.approx(1 / 3)
    assert read.loc["c", ["liver_healthy", "liver_low", "liver_high"]].tolist() == [0.9, 0.07, 0.03]
    for group in RSNA_TARGETS:
        if group.name != "extravasation":
            np.testing.assert_allclose(read[list(group.columns)].sum(axis=1), 1)


def test_nothing_at_all_is_an_empty_table(tmp_path: Path) -> None:
    table = make_table(
        pd.DataFrame(),
        pd.DataFrame(columns=REFUSED_COLUMNS),
        aggregate="mean",
        decision=decision(),
        abstention=rule(0.05),
    )
    assert list(table.columns) == table_columns(ORGAN_TARGETS)
    assert len(table) == 0
    write_table(tmp_path / "empty.parquet", table)
    assert list(make_submission(table, {}, ORGAN_TARGETS).columns) == SAMPLE_SUBMISSION.split(",")
