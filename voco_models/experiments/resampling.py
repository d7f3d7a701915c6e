"""Scores of cells with intervals over resamples of the test patients and of the seeds.

All cells use the same resamples, so the interval of a difference is that of paired values.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from voco_models.evaluation import CONFIDENCE_LEVEL, POWER_FACTOR, RESAMPLES, FloatArray, Interval

SEED = 20260101
"""Of the resamples."""


@dataclass(frozen=True, slots=True)
class Score:
    """A score of the runs of a cell, which differ in the seed alone."""

    mean: Interval
    """Mean over the seeds."""
    by_seed: tuple[float, ...]
    gain: Interval | None
    """By which the cell is better than the reference; None for the reference itself."""
    detectable: float | None
    """Smallest difference to the reference that this comparison would probably have shown."""

    @property
    def sd(self) -> float | None:
        """Standard deviation over the seeds; None with one seed."""
        return float(np.std(self.by_seed, ddof=1)) if len(self.by_seed) > 1 else None


def patient_counts(n_patients: int, rng: np.random.Generator) -> FloatArray:
    """How often each patient is in each resample, (1 + RESAMPLES, N); in row 0, once."""
    return _resample(n_patients, n_patients, rng)


def seed_shares(count: int, rng: np.random.Generator) -> FloatArray:
    """Weight of each of `count` seeds in each resample, (1 + RESAMPLES, count); in row 0, equal.

    A resample has one seed less than there are. Then the variance of a mean over the resamples is
    that of the mean, s^2 / count, with s^2 the sample's variance. With `count` seeds in each, it
    would be smaller by (count - 1) / count, which matters for few (Rao and Wu 1988).
    """
    if count == 1:
        return np.ones((1 + RESAMPLES, 1))
    shares = _resample(count, count - 1, rng) / (count - 1)
    shares[0] = 1 / count
    return shares


def _resample(count: int, drawn: int, rng: np.random.Generator) -> FloatArray:
    """How often each of `count` is among `drawn` in each resample, (1 + RESAMPLES, count).

    In row 0, each is there once.
    """
    counts = rng.multinomial(drawn, np.full(count, 1 / count), size=RESAMPLES)
    return np.concatenate([np.ones((1, count)), counts])


def summarise(
    own: FloatArray, reference: FloatArray | None, shares: FloatArray, *, lower_is_better: bool
) -> Score:
    """The score of a cell from its values (S, R), of S seeds in R resamples of the patients.

    `reference` (S, R) has the values of the cell to compare with, and `shares` (R, S) the weights
    of the seeds. Row 0 of the resamples is all patients and all seeds. Resamples with a value that
    is NaN are left out.
    """
    means = np.einsum("rs,sr->r", shares, own)
    gain: Interval | None = None
    detectable: float | None = None
    if reference is not None:
        gains = means - np.einsum("rs,sr->r", shares, reference)
        gains = -gains if lower_is_better else gains
        gain = _interval(gains)
        detectable = POWER_FACTOR * _standard_error(gains)
    return Score(
        mean=_interval(means),
        by_seed=tuple(own[:, 0].tolist()),
        gain=gain,
        detectable=detectable,
    )


def _interval(values: FloatArray) -> Interval:
    """The first value, and the interval of the others; NaN if the first one is."""
    if np.isnan(values[0]):
        return Interval(float("nan"), float("nan"), float("nan"))
    tail = 100 * (1 - CONFIDENCE_LEVEL) / 2
    low, high = np.nanpercentile(values[1:], [tail, 100 - tail])
    return Interval(float(values[0]), float(low), float(high))


def _standard_error(values: FloatArray) -> float:
    """The standard deviation of all but the first value; NaN if the first one is."""
    return float("nan") if np.isnan(values[0]) else float(np.nanstd(values[1:], ddof=1))
