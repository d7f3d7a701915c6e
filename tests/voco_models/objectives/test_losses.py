"""The losses and their gradients, against numbers worked out by hand."""

from __future__ import annotations

from dataclasses import replace
from math import log, sqrt

import numpy as np
import pytest
import torch
from torch import Tensor

from voco_data.errors import InputError
from voco_models.objectives.losses import (
    LEGACY_EPSILON,
    LOG_FLOOR,
    LossOptions,
    agreement_loss,
    cosines,
    inter_cosines,
    inter_loss,
    inter_targets,
    minus_log_one_minus,
    reg_loss,
)

CODE = LossOptions()
LOG_NEGATIVES = LossOptions(negatives="log")
PLAIN = LossOptions(form="plain")
LEGACY = LossOptions(legacy_clamp=True)


def row(*values: float) -> Tensor:
    """One random crop against len(values) base crops, of one volume."""
    return torch.tensor([[values]])


def gradient(cosine: Tensor, target: Tensor, options: LossOptions) -> Tensor:
    cosine = cosine.clone().requires_grad_()
    agreement_loss(cosine, target, options).backward()
    assert cosine.grad is not None
    return cosine.grad


def test_weighted_loss_by_hand() -> None:
    # r = (.75, .25, 0, 0), s = (.5, .75, .2, -.4): distances .25 and .5.
    loss = agreement_loss(row(0.5, 0.75, 0.2, -0.4), row(0.75, 0.25, 0, 0), CODE)
    positive = -(0.75 * log(0.75) + 0.25 * log(0.5)) / 1.0
    negative = (0.2**2 + 0.4**2) / 2
    assert loss.item() == pytest.approx(positive + negative, rel=1e-6)


def test_weights_are_divided_by_their_sum() -> None:
    loss = agreement_loss(row(0.1, 0.1), row(0.4, 0.2), CODE)
    assert loss.item() == pytest.approx(-(0.4 * log(0.7) + 0.2 * log(0.9)) / 0.6, rel=1e-6)


def test_log_negatives_by_hand() -> None:
    loss = agreement_loss(row(1.0, 0.2, -0.4), row(1.0, 0, 0), LOG_NEGATIVES)
    assert loss.item() == pytest.approx(-(log(0.8) + log(0.6)) / 2, rel=1e-6)


def test_plain_loss_by_hand() -> None:
    loss = agreement_loss(row(0.5, 0.75, 0.2, -0.4), row(0.75, 0.25, 0, 0), PLAIN)
    assert loss.item() == pytest.approx(-sum(map(log, (0.75, 0.5, 0.8, 0.6))) / 4, rel=1e-6)


def test_legacy_clamp_by_hand() -> None:
    loss = agreement_loss(row(-0.5, 0.3, -0.4), row(0.75, 0.25, 0), LEGACY)
    e = LEGACY_EPSILON
    positive = -(0.75 * log(0.25 + e) + 0.25 * log(0.95 + e))
    assert loss.item() == pytest.approx(positive + 0, rel=1e-5)


def test_every_volume_has_the_same_weight_in_the_mean() -> None:
    a = agreement_loss(row(0.5, 0.1), row(0.75, 0), CODE)
    b = agreement_loss(row(0.2, 0.3), row(0.1, 0.1), CODE)
    both = agreement_loss(
        torch.cat([row(0.5, 0.1), row(0.2, 0.3)]), torch.cat([row(0.75, 0), row(0.1, 0.1)]), CODE
    )
    assert both.item() == pytest.approx((a.item() + b.item()) / 2, rel=1e-6)


@pytest.mark.parametrize("options", [CODE, LOG_NEGATIVES, PLAIN])
def test_the_loss_is_zero_at_agreement(options: LossOptions) -> None:
    target = row(0.5, 0.25, 0.25, 0)
    assert agreement_loss(target, target, options).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("options", [CODE, LOG_NEGATIVES, PLAIN])
@pytest.mark.parametrize("s", [0.0, -0.3, -1.0])
@pytest.mark.parametrize("r", [0.1, 0.6, 1.0])
def test_gradient_is_alive_where_the_cosine_is_not_positive(
    options: LossOptions, s: float, r: float
) -> None:
    slope = gradient(row(s, 0.0), row(r, 0.0), options)[0, 0, 0].item()
    assert slope < 0  # descent raises the cosine
    assert abs(slope) <= 1 / LOG_FLOOR


def test_legacy_clamp_kills_the_gradient_below_zero() -> None:
    target = row(0.6, 0.4, 0)
    assert gradient(row(-0.1, -0.5, -0.2), target, LEGACY).abs().sum() == 0
    assert gradient(row(0.1, 0.1, 0.2), target, LEGACY).ne(0).all()


@pytest.mark.parametrize("options", [CODE, LOG_NEGATIVES])
def test_negative_cells_are_pulled_to_zero_from_both_sides(options: LossOptions) -> None:
    slopes = gradient(row(0.5, 0.3, -0.3), row(0.5, 0, 0), options)[0, 0]
    assert slopes[1] > 0
    assert slopes[2] < 0


def test_log_is_continued_by_its_tangent() -> None:
    distance = torch.tensor([0.0, 0.5, 1 - LOG_FLOOR, 1.0, 2.0], dtype=torch.float64)
    expected = [0.0, log(2), -log(LOG_FLOOR), -log(LOG_FLOOR) + 1]
    expected.append(-log(LOG_FLOOR) + (LOG_FLOOR + 1) / LOG_FLOOR)
    values = minus_log_one_minus(distance)
    np.testing.assert_allclose(values.numpy(), expected, rtol=1e-6)


def test_cosines_by_hand_and_in_float32() -> None:
    a = torch.tensor([[3.0, 4.0], [-1.0, 0.0]])
    b = torch.tensor([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]])
    expected = [[0.6, 0.8, 1.4 / sqrt(2)], [-1, 0, -1 / sqrt(2)]]
    np.testing.assert_allclose(cosines(a, b).numpy(), expected, rtol=1e-6, atol=1e-7)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = cosines(a.bfloat16(), b.bfloat16())
    assert inside.dtype == torch.float32
    np.testing.assert_allclose(inside.numpy(), expected, rtol=1e-6, atol=1e-7)


def embeddings(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def cosine_by_numpy(a: Tensor, b: Tensor) -> float:
    x, y = a.numpy().astype(float), b.numpy().astype(float)
    return float(x @ y / np.linalg.norm(x) / np.linalg.norm(y))


@pytest.mark.parametrize("level", [(), (5,)])
def test_inter_pairs_each_volume_with_the_next(level: tuple[int, ...]) -> None:
    random, base = embeddings(3, *level, 2, 7), embeddings(3, *level, 9, 7, seed=1)
    result = inter_cosines(random, base, "next")
    assert result.shape == (3, *level, 2, 9)
    place = (1, *([4] if level else []))
    other = (2, *([4] if level else []))
    expected = cosine_by_numpy(random[place][1], base[other][8])
    assert result[place][1, 8].item() == pytest.approx(expected, abs=1e-6)
    wrapped = cosine_by_numpy(random[(2, *place[1:])][0], base[(0, *place[1:])][3])
    assert result[(2, *place[1:])][0, 3].item() == pytest.approx(wrapped, abs=1e-6)


def test_inter_all_pairs_are_all_but_the_volume_itself() -> None:
    random, base = embeddings(3, 2, 7), embeddings(3, 9, 7, seed=1)
    result = inter_cosines(random, base, "all_pairs")
    expected = [cosines(random[i], base[j]) for i in range(3) for j in range(3) if i != j]
    torch.testing.assert_close(result, torch.stack(expected))
    sliced = inter_cosines(embeddings(3, 5, 2, 7), embeddings(3, 5, 9, 7), "all_pairs")
    assert sliced.shape == (6, 5, 2, 9)


@pytest.mark.parametrize("pairs", ["next", "all_pairs"])
def test_inter_needs_two_volumes(pairs: str) -> None:
    with pytest.raises(InputError, match="at least 2 volumes"):
        inter_cosines(embeddings(1, 2, 7), embeddings(1, 9, 7), pairs)  # type: ignore[arg-type]


def test_inter_targets_are_the_overlaps_of_each_pair() -> None:
    # Volume i and cell k, l have the target 100 i + 10 k + l, whatever the other volume is.
    i, k, cell = torch.arange(3.0), torch.arange(2.0), torch.arange(9.0)
    target = 100 * i[:, None, None] + 10 * k[:, None] + cell
    assert torch.equal(inter_targets(target, "next"), target)
    pairs = inter_targets(target, "all_pairs")
    assert pairs.shape == (6, 2, 9)  # (0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)
    assert pairs[:, 1, 4].tolist() == [14, 14, 114, 114, 214, 214]


def test_inter_has_no_gradient_for_the_teacher() -> None:
    student, teacher = row(0.5, 0.1).requires_grad_(), row(0.75, -0.3).requires_grad_()
    loss = inter_loss(student, teacher, CODE)
    # The teacher's -0.3 counts as 0: a cell without overlap.
    assert loss.item() == pytest.approx(-log(0.75) + 0.1**2, rel=1e-6)
    loss.backward()
    assert student.grad is not None
    assert teacher.grad is None


def test_reg_by_hand() -> None:
    base = torch.tensor([[[1.0, 0.0], [3.0, 4.0], [-1.0, 0.0]]])  # cosines .6, -1, -.6
    assert reg_loss(base, "squared").item() == pytest.approx(0.36 / 3, rel=1e-6)
    assert reg_loss(base, "abs").item() == pytest.approx((0.6 + 1 + 0.6) / 3, rel=1e-6)
    assert reg_loss(base[:, :1], "squared").item() == 0


def test_reg_has_no_gradient_for_the_second_crop_of_a_pair() -> None:
    base = torch.tensor([[[1.0, 0.2], [0.8, 0.6]]]).requires_grad_()
    reg_loss(base, "squared").backward()
    assert base.grad is not None
    assert base.grad[0, 0].abs().sum() > 0
    assert base.grad[0, 1].abs().sum() == 0


@pytest.mark.parametrize(
    "wrong",
    [
        {"form": "x"},
        {"negatives": "x"},
        {"direction": "x"},
        {"inter": "x"},
        {"inter_target": "x"},
        {"reg": "x"},
    ],
)
def test_unknown_options_are_refused(wrong: dict[str, str]) -> None:
    with pytest.raises(InputError, match="must be one of"):
        replace(CODE, **wrong)  # type: ignore[arg-type]
