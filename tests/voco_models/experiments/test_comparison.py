"""Intervals over seeds against the variance of a mean."""

from __future__ import annotations

import numpy as np
import pytest

from voco_models.experiments.resampling import seed_shares


@pytest.mark.parametrize("count", [2, 5, 12])
def test_the_spread_over_resamples_is_the_standard_error_of_the_mean(count: int) -> None:
    scores = np.random.default_rng(count).normal(size=count)
    shares = seed_shares(count, np.random.default_rng(0))
    means = shares @ scores
    assert means[0] == pytest.approx(scores.mean())
    assert means[1:].mean() == pytest.approx(scores.mean(), abs=0.05)
    assert means[1:].std() == pytest.approx(scores.std(ddof=1) / np.sqrt(count), rel=0.05)


def test_one_seed_has_no_spread() -> None:
    assert (seed_shares(1, np.random.default_rng(0)) == 1).all()
