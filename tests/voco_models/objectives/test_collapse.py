"""Signs of collapse: losses of constant cosines, the effective rank, and the warnings."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from voco_models.objectives.alarms import PATIENCE, CollapseWatch
from voco_models.objectives.collapse import (
    ConstantCosineLosses,
    constant_cosine_losses,
    effective_rank,
)
from voco_models.objectives.crops import CropPlan
from voco_models.objectives.losses import LossOptions


@pytest.mark.parametrize(
    ("options", "zero", "best", "at"),
    [
        (LossOptions(), 0.72, 0.36, 0.31),
        (LossOptions(negatives="log"), 0.72, 0.59, None),
        (LossOptions(form="plain"), 0.16, 0.16, None),
    ],
)
def test_collapse_levels_are_the_published_ones(
    options: LossOptions, zero: float, best: float, at: float | None
) -> None:
    levels = constant_cosine_losses(CropPlan((192, 192)), "overlap", options)
    assert levels.at_zero == pytest.approx(zero, abs=0.02)
    assert levels.lowest == pytest.approx(best, abs=0.02)
    if at is not None:
        assert levels.best_cosine == pytest.approx(at, abs=0.015)


def test_effective_rank_of_known_directions() -> None:
    assert effective_rank(torch.ones(3, 4, 8)).item() == pytest.approx(1)
    assert effective_rank(torch.eye(8)[:5] * 3).item() == pytest.approx(5)
    # Two rows with a cosine of 0.6: 4 / (1 + 1 + 2 * 0.36).
    assert effective_rank(torch.tensor([[1.0, 0], [3, 4]])).item() == pytest.approx(4 / 2.72)
    # Two directions, 3 rows in one and 1 in the other: 16 / (9 + 1).
    assert effective_rank(torch.eye(8)[[0, 0, 0, 1]]).item() == pytest.approx(1.6)
    assert effective_rank(torch.zeros(4, 8)).item() == 1  # no direction at all


def test_the_watch_warns_once_for_a_loss_that_stays_at_a_level(
    caplog: pytest.LogCaptureFixture,
) -> None:
    watch = CollapseWatch(ConstantCosineLosses(at_zero=0.72, lowest=0.36, best_cosine=0.31))
    for step in range(3 * PATIENCE):
        watch({"step": step, "intra": 0.362, "rank": 9.0})
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert len(watch.alarms) == 1
    assert f"step {PATIENCE - 1}: " in watch.alarms[0]
    assert "0.31" in watch.alarms[0]


def test_the_watch_warns_of_embeddings_that_are_all_alike() -> None:
    watch = CollapseWatch(ConstantCosineLosses(at_zero=0.72, lowest=0.36, best_cosine=0.31))
    for step in range(PATIENCE):
        watch({"step": step, "intra": 0.2, "rank": 1.1})
    assert len(watch.alarms) == 1
    assert "rank" in watch.alarms[0]


def test_no_warning_for_a_loss_that_passes_a_level() -> None:
    watch = CollapseWatch(ConstantCosineLosses(at_zero=0.72, lowest=0.36, best_cosine=0.31))
    for step, intra in enumerate(np.linspace(0.8, 0.1, 20)):
        watch({"step": step, "intra": float(intra), "rank": 9.0})
    assert watch.alarms == []
