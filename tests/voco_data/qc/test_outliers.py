"""Outlier scores of made-up cohorts, and their reasons in words."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from voco_data.qc import outliers
from voco_data.qc.outliers import MEASURES, MIN_SERIES, OUTLIER_Z, OutlierScore, measure_spreads


def score_all(cohort: list[dict[str, Any]]) -> list[OutlierScore]:
    columns = {m.key: np.array([s[m.key] for s in cohort], np.float64) for m in MEASURES}
    spreads = measure_spreads(columns)
    return [outliers.score_series(one, spreads) for one in cohort]


def series(**values: Any) -> dict[str, Any]:
    plain: dict[str, Any] = {
        "spacing_z_mm": 2.5,
        "spacing_y_mm": 0.75,
        "spacing_x_mm": 0.75,
        "scan_mm": 400.0,
        "field_mm": 384.0,
        "box_mm": 270.0,
        "box_above_mm": 60.0,
        "hu_p5": -110.0,
        "hu_median": 30.0,
        "hu_p95": 180.0,
        "box_confidence": 0.9,
        "flags": "",
    }
    return plain | values


def test_a_plain_cohort_has_no_outlier() -> None:
    assert {scored.score for scored in score_all([series()] * 20)} == {0.0}


def test_a_tiny_difference_is_no_outlier_even_where_all_others_are_equal() -> None:
    assert score_all([*[series()] * 20, series(spacing_z_mm=2.6, hu_median=35.0)])[-1].score == 0


@pytest.mark.parametrize("measure", MEASURES, ids=lambda m: m.key)
def test_each_measure_alone_can_make_an_outlier(measure: outliers.Measure) -> None:
    usual = series()[measure.key]
    far = usual + 1.1 * OUTLIER_Z * measure.floor
    near = usual + 0.9 * OUTLIER_Z * measure.floor
    odd, fine = score_all(
        [*[series()] * 20, series(**{measure.key: far}), series(**{measure.key: near})]
    )[-2:]
    (words,) = [w for w in odd.why if not w.startswith("pixels")]
    assert words.startswith(f"{measure.label} {far:.{measure.digits}f} {measure.unit}")
    assert not [w for w in fine.why if not w.startswith("pixels")]


def test_a_spread_cohort_widens_the_limits() -> None:
    cohort = [series(scan_mm=300.0 + 20 * k) for k in range(21)]  # 300 to 700 mm, MAD 100
    scored = score_all([*cohort, series(scan_mm=900.0), series(scan_mm=1500.0)])
    assert {v.score for v in scored[:-1]} == {0.0}
    assert scored[-1].why == ("scan length 1500 mm (median 520)",)


def test_one_huge_value_counts_ten_and_the_worst_is_named_first() -> None:
    (odd,) = score_all([*[series()] * 20, series(scan_mm=9e6, hu_median=75.0)])[-1:]
    assert odd.score == pytest.approx(10 + 4.5)
    assert [words.split(" ")[0] for words in odd.why] == ["scan", "HU,"]


def test_few_series_are_not_compared() -> None:
    cohort = [*[series()] * (MIN_SERIES - 2), series(spacing_z_mm=10.0)]
    assert {scored.score for scored in score_all(cohort)} == {0.0}
    assert score_all([series(), *cohort])[-1].score > 0


def test_fixed_rules() -> None:
    (odd,) = score_all(
        [series(box_confidence=0.3, spacing_y_mm=0.8, flags="lossy mask monochrome1")]
    )
    assert odd.score == 5 + 2 + 1 + 1
    assert odd.why == (
        "box is a fallback (confidence 0.30)",
        "pixels are not square (0.800 by 0.750 mm)",
        "flag lossy",
        "flag monochrome1",
    )


def test_values_may_be_missing() -> None:
    unknown = dict.fromkeys(series(), None)
    assert score_all([*[series()] * 10, unknown])[-1] == outliers.OutlierScore(0.0, ())
    assert score_all([]) == []
