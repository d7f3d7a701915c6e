"""The tests and effects of the watch for drift, beside values computed by hand; false alarms."""

from __future__ import annotations

import math

import numpy as np
import pytest

from voco_data.drift import comparisons
from voco_data.drift.comparisons import Comparison, compare, correct, stability_index
from voco_data.drift.measures import MEASURES, choose_measures
from voco_data.errors import InputError

HU, SPACING = MEASURES["hu_median"], MEASURES["slice_spacing"]
REFUSED, SYNTAX = MEASURES["refused"], MEASURES["transfer_syntax"]


def test_the_p_values_are_those_of_textbooks() -> None:
    """Three below three: 2 of the C(6, 3) = 20 orders. Fisher's lady who tastes tea: 34 of 70."""
    assert compare(HU, [1, 2, 3], [4, 5, 6]).p == pytest.approx(2 / 20)
    tea = [True] * 3 + [False]
    assert compare(REFUSED, tea, [not each for each in tea]).p == pytest.approx(34 / 70)
    assert compare(SYNTAX, ["a"] * 5, ["a"] * 9).p == 1.0
    three = compare(SYNTAX, ["a"] * 20 + ["b", "c"], ["a"] * 2 + ["b"] * 10 + ["c"] * 10)
    assert three.p == pytest.approx(0.001)  # the least of 999 resamples


def test_holm_by_hand() -> None:
    given = [Comparison(HU, (), (), 0.0, 0.0, p) for p in (0.01, 0.04, 0.03, 0.9)]
    assert [one.p_holm for one in correct(given)] == pytest.approx([0.04, 0.09, 0.09, 0.9])


def test_the_stability_index_by_hand() -> None:
    """Shares 50.5/101 and 50.5/101 beside 90.5/101 and 10.5/101."""
    p, q = np.array([50.5, 50.5]) / 101, np.array([90.5, 10.5]) / 101
    by_hand = sum((b - a) * math.log(b / a) for a, b in zip(p, q, strict=True))
    assert stability_index([50, 50], [90, 10]) == pytest.approx(by_hand)
    assert stability_index([10, 10], [10, 10]) == 0


def test_effects_are_in_the_units_of_the_measure() -> None:
    values = np.linspace(0, 100, 101)
    assert compare(HU, values, values + 50).effect == pytest.approx(50)
    assert compare(HU, values, values - 50).effect == pytest.approx(-50)
    assert compare(SPACING, values + 1, 2 * (values + 1)).effect == pytest.approx(1.0)
    one_in_ten = [True] + [False] * 9
    assert compare(REFUSED, one_in_ten, [True] * 3 + [False] * 7).effect == pytest.approx(0.2)
    assert compare(SYNTAX, ["a"] * 4, ["a", "b", "c", "c"]).effect == pytest.approx(0.75)


def test_a_tiny_difference_of_many_patients_is_no_alarm() -> None:
    rng = np.random.default_rng(0)
    many = rng.normal(40, 15, 20_000)
    [found] = correct([compare(HU, many, rng.normal(42, 15, 20_000))])
    assert found.p_holm < 1e-10
    assert not found.is_alarm(0.05)
    [larger] = correct([compare(HU, many, rng.normal(52, 15, 20_000))])
    assert larger.is_alarm(0.05)


def test_a_large_difference_of_few_patients_is_no_alarm() -> None:
    [found] = correct([compare(HU, [40.0] * 5, [90.0] * 2)])
    assert found.effect == 50
    assert not found.is_alarm(0.01)


def population(rng: np.random.Generator, n: int, **drift: float) -> dict[str, list[object]]:
    """Patients with all measures of scans; HU of one patient are correlated."""
    base = rng.normal(0, 15, n) + drift.get("shift_hu", 0.0)
    slices = rng.choice([1, 1.25, 2, 2.5, 3, 5], n, p=[0.1, 0.2, 0.1, 0.3, 0.1, 0.2])
    values = {
        "refused": rng.random(n) < drift.get("refused", 0.05),
        "fallback_box": rng.random(n) < 0.03,
        "transfer_syntax": rng.choice(["a", "b", "c"], n, p=[0.7, 0.25, 0.05]),
        "hu_p5": base - 100 + rng.normal(0, 10, n),
        "hu_median": base + 40,
        "hu_p95": 1.5 * base + 170 + rng.normal(0, 25, n),
        "slice_spacing": slices * drift.get("thicker", 1.0),
        "pixel_spacing": rng.normal(0.78, 0.08, n),
        "scan_length": rng.normal(480, 90, n),
    }
    return {name: list(column) for name, column in values.items()}


def count_alarms(repeats: int, new: int, alpha: float, **drift: float) -> int:
    """How many of `repeats` looks at `new` patients raise an alarm; the cohort has 300."""
    rng = np.random.default_rng(3)
    count = 0
    for _ in range(repeats):
        cohort, later = population(rng, 300), population(rng, new, **drift)
        found = correct([compare(MEASURES[name], cohort[name], later[name]) for name in cohort])
        count += any(one.is_alarm(alpha) for one in found)
    return count


@pytest.fixture(autouse=True)
def _fewer_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparisons, "RESAMPLES", 999)


@pytest.mark.parametrize("new", [20, 100])
def test_without_a_drift_at_most_1_look_in_20_is_an_alarm(new: int) -> None:
    """Also at a level of 5 %; the default is 1 %."""
    assert count_alarms(200, new, 0.05) <= 10


@pytest.mark.parametrize(
    ("new", "drift"),
    [(20, {"shift_hu": 50.0}), (40, {"thicker": 2.0}), (480, {"refused": 0.15})],
)
def test_real_drifts_are_found(new: int, drift: dict[str, float]) -> None:
    """At the default level, in at least 9 of 10 looks at so many new patients."""
    assert count_alarms(20, new, 0.01, **drift) >= 18


def test_other_smallest_effects() -> None:
    assert choose_measures(["hu_median=25"])["hu_median"].min_effect == 25
    for change in ("hu=2", "hu_median=-1", "hu_median", "hu_median=inf"):
        with pytest.raises(
            InputError, match="min effect: expected NAME=NUMBER with one of refused"
        ):
            choose_measures([change])
