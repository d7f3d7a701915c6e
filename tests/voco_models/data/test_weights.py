"""Weights: how often items are drawn, that batches have no item twice, and that order is fixed."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings, strategies as st

from tests.voco_models.data.test_loader import CPU, FakeStore
from voco_models.data.items import items_of
from voco_models.data.loader import Loader
from voco_models.data.sampling import BatchOrder, epoch_order, weighted_epoch_order


@settings(max_examples=100, deadline=None)
@given(
    weights=st.lists(st.floats(0.01, 100), min_size=1, max_size=60),
    seed=st.integers(0, 2**32),
    epoch=st.integers(0, 1000),
    block=st.integers(1, 8),
)
def test_an_item_comes_as_often_as_its_weight_says(
    weights: list[float], seed: int, epoch: int, block: int
) -> None:
    values = np.array(weights)
    order = weighted_epoch_order(values, seed, epoch, block)
    assert order.shape == (len(weights),)
    expected = len(weights) * values / values.sum()
    counts = np.bincount(order, minlength=len(weights))
    assert (counts >= np.floor(expected - 1e-6)).all()
    assert (counts <= np.ceil(expected + 1e-6)).all()
    assert np.array_equal(order, weighted_epoch_order(values, seed, epoch, block))


def test_the_mean_over_epochs_is_the_weight() -> None:
    weights = np.array([1.0] * 30 + [2.5] * 10)
    draws = [weighted_epoch_order(weights, 3, epoch, 4) for epoch in range(2000)]
    counts = np.bincount(np.concatenate(draws), minlength=40) / 2000
    # Expected 40 / 55 = 0.727 and 1.818 an epoch; one sigma of the mean is 0.01.
    assert np.abs(counts[:30] - 40 / 55).max() < 0.05
    assert np.abs(counts[30:] - 100 / 55).max() < 0.05


@settings(max_examples=60, deadline=None)
@given(
    light=st.integers(12, 60),
    heavy=st.integers(1, 20),
    weight=st.floats(0.1, 3),
    size=st.integers(2, 4),
    world=st.integers(1, 2),
    epoch=st.integers(0, 50),
)
def test_no_batch_has_an_item_twice(
    light: int, heavy: int, weight: float, size: int, world: int, epoch: int
) -> None:
    weights = np.array([1.0] * light + [weight] * heavy)
    orders = [BatchOrder(len(weights), size, 7, rank, world, weights) for rank in range(world)]
    steps = orders[0].steps_per_epoch
    most = math.ceil(len(weights) * weights.max() / weights.sum())
    assume(most <= steps)  # else an item comes more often than there are batches
    for step in range(epoch * steps, (epoch + 1) * steps):
        batch = np.concatenate([order.indices_at(step) for order in orders])
        assert len(set(batch.tolist())) == size * world


def test_copies_of_an_item_are_spread_over_the_epoch() -> None:
    weights = np.ones(100)
    weights[0] = 10.0
    for epoch in range(20):
        (places,) = np.nonzero(weighted_epoch_order(weights, 0, epoch, 4) == 0)
        assert len(places) in (9, 10)
        assert np.diff(places).max() < 40


def test_epochs_and_seeds_differ_and_a_resumed_order_continues() -> None:
    weights = np.array([1.0, 2.0] * 20)
    first = weighted_epoch_order(weights, 0, 0, 4)
    assert not np.array_equal(first, weighted_epoch_order(weights, 0, 1, 4))
    assert not np.array_equal(first, weighted_epoch_order(weights, 1, 0, 4))
    whole, resumed = (BatchOrder(40, 4, 5, 0, 1, weights) for _ in range(2))
    steps = [whole.indices_at(step) for step in range(37)]
    assert np.array_equal(steps[36], resumed.indices_at(36))
    assert np.array_equal(steps[3], resumed.indices_at(3))


def test_without_weights_the_order_is_that_of_before() -> None:
    order = BatchOrder(20, 4, 9, 0, 1)
    drawn = np.concatenate([order.indices_at(step) for step in range(5)])
    assert np.array_equal(drawn, epoch_order(20, 9, 0))


def test_a_loader_draws_by_weight() -> None:
    items = items_of([FakeStore(list(range(12)))])
    weights = np.array([3.0] * 4 + [1.0] * 8)
    loader = Loader(items, batch_size=4, seed=1, device=CPU, weights=weights)
    batches = loader.batches_from(0)
    drawn = torch.cat([next(batches).items for _ in range(3 * 50)])
    batches.close()
    share = float((drawn < 4).double().mean())
    assert abs(share - 12 / 20) < 0.03


@pytest.mark.parametrize("weights", [np.ones(3), np.array([1.0, 0.0]), np.array([1.0, np.nan])])
def test_bad_weights_are_refused(weights: np.ndarray) -> None:
    items = items_of([FakeStore([0, 1])])
    with pytest.raises(ValueError, match="expected 2 weights above 0"):
        Loader(items, batch_size=1, seed=0, device=CPU, weights=weights)
