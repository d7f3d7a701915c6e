"""Heads over slice features: attention by hand, order of slices, places and depths."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from voco_data.labels.targets import ORGAN_TARGETS, RSNA_TARGETS, TargetTable
from voco_models.networks.classifier import HEADS
from voco_models.networks.heads import FeatureLayout, HeadOptions
from voco_models.networks.organ_queries import (
    PRIOR_DEPTH_MM,
    PRIOR_FLOOR,
    PRIOR_SHAPE,
    OrganQueryHead,
    attention_loss,
    make_prior,
    regions_of,
)
from voco_models.networks.places import box_masks, place_coordinates
from voco_models.networks.sequence_heads import SliceAttention, encode_depths

LAYOUT = FeatureLayout(channels=6, places=(2, 2))
OPTIONS = HeadOptions(hidden=8, layers=2)
DEPTHS = torch.tensor([[300.0, 200, 150, 20, 5], [250, 240, 100, 90, 10]])


def features(seed: int = 0) -> Tensor:
    return torch.randn(2, 5, 4, 6, generator=torch.Generator().manual_seed(seed))


def make(name: str, targets: TargetTable = ORGAN_TARGETS) -> torch.nn.Module:
    torch.manual_seed(0)
    return HEADS[name](LAYOUT, targets, OPTIONS).eval()


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("targets", [ORGAN_TARGETS, RSNA_TARGETS])
def test_every_head_grades_every_group(name: str, targets: TargetTable) -> None:
    head = make(name, targets)
    values = features().requires_grad_()
    logits, attention, _ = head(values, DEPTHS)
    assert {g: tuple(z.shape) for g, z in logits.items()} == {
        group.name: (2, len(group.classes)) for group in targets
    }
    for weights in attention.values():
        torch.testing.assert_close(weights.flatten(1).sum(dim=1), torch.ones(2))
    sum(z.square().sum() for z in logits.values()).backward()
    assert values.grad is not None
    assert all(p.grad is not None and p.grad.isfinite().all() for p in head.parameters())
    assert (values.grad.abs().amax(dim=(2, 3)) > 0).all()  # every slice of every volume


@pytest.mark.parametrize("name", HEADS)
def test_volumes_do_not_depend_on_each_other(name: str) -> None:
    head = make(name)
    both, alone = head(features(), DEPTHS).logits, head(features()[1:], DEPTHS[1:]).logits
    for group in ORGAN_TARGETS.names:
        torch.testing.assert_close(both[group][1:], alone[group])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("bilstm", False),
        ("gru_attention", False),
        ("gated_attention", True),  # a set
        ("transformer", True),  # slices carry their depths
        ("organ_queries", True),
    ],
)
def test_whether_the_order_of_slices_has_no_effect(name: str, expected: bool) -> None:
    head, order = make(name), torch.tensor([3, 0, 4, 1, 2])
    plain = head(features(), DEPTHS).logits["liver"]
    moved = head(features()[:, order], DEPTHS[:, order]).logits["liver"]
    assert torch.allclose(plain, moved, atol=1e-5) is expected


@pytest.mark.parametrize("name", ["transformer", "organ_queries"])
def test_heads_that_know_places_need_depths(name: str) -> None:
    head = make(name)
    with pytest.raises(ValueError, match="needs the depths"):
        head(features())
    first, second = head(features(), DEPTHS).logits, head(features(), DEPTHS.flip(1)).logits
    assert not torch.allclose(first["liver"], second["liver"])


@pytest.mark.parametrize("gated", [False, True])
def test_slice_attention_is_that_of_the_paper(gated: bool) -> None:
    """Ilse et al. (ICML 2018), equations 8 and 9, in NumPy."""
    torch.manual_seed(0)
    layer = SliceAttention(6, 4, ORGAN_TARGETS, gated=gated)
    values = torch.randn(1, 5, 6)
    means, weights = layer(values)
    v, w = (layer.tanh.weight.detach().numpy(), layer.score.weight.detach().numpy())
    h = values[0].numpy()
    hidden = np.tanh(h @ v.T + layer.tanh.bias.detach().numpy())
    if gated:
        assert layer.gate is not None
        u = layer.gate.weight.detach().numpy()
        hidden = hidden / (1 + np.exp(-(h @ u.T + layer.gate.bias.detach().numpy())))
    scores = np.exp(hidden @ w.T)
    expected = scores / scores.sum(axis=0)
    for g, name in enumerate(ORGAN_TARGETS.names):
        np.testing.assert_allclose(weights[name][0].detach(), expected[:, g], rtol=1e-5)
        np.testing.assert_allclose(means[name][0].detach(), expected[:, g] @ h, rtol=1e-4)


def test_depths_are_encoded_by_waves_from_800_to_10_mm() -> None:
    found = encode_depths(torch.tensor([[200.0]]), 4)[0, 0]
    waves = [2 * math.pi * 200 / length for length in (800, 10)]
    expected = [math.sin(waves[0]), math.sin(waves[1]), math.cos(waves[0]), math.cos(waves[1])]
    np.testing.assert_allclose(found, expected, atol=1e-5)


# Organ queries


def test_regions_of_the_groups() -> None:
    assert regions_of(ORGAN_TARGETS) == ("kidney_left", "kidney_right", "liver", "spleen")
    assert "bowel" in regions_of(RSNA_TARGETS)


def test_places_are_the_middles_of_cells() -> None:
    places = place_coordinates(torch.tensor([[30.0, 10.0]]), (2, 4))
    assert places.shape == (1, 2, 2, 4, 3)
    assert places[0, 1, 0, 3].tolist() == [10.0, 0.25, 0.875]


def box(*sides: tuple[float, float]) -> Tensor:
    """A box (2, 3) of (low, high) along depth, rows and columns."""
    return torch.tensor(sides).T


UNKNOWN = torch.full((2, 3), torch.nan)


def test_masks_contain_the_places_whose_middles_are_in_the_box() -> None:
    boxes = torch.stack([box((0, 20), (0.0, 0.5), (0.5, 1.0)), UNKNOWN])[None]
    masks = box_masks(boxes, torch.tensor([[30.0, 10.0]]), (2, 4))
    expected = torch.zeros(2, 2, 2, 4, dtype=torch.bool)
    expected[0, 1, 0, 2:] = True
    assert torch.equal(masks[0], expected)


def test_the_prior_is_the_share_of_series_whose_organ_is_there() -> None:
    half = box((0, PRIOR_DEPTH_MM / 2), (0.0, 1.0), (0.0, 1.0))
    whole = box((0, PRIOR_DEPTH_MM), (0.0, 1.0), (0.0, 1.0))
    boxes = torch.stack([torch.stack([half, UNKNOWN]), torch.stack([whole, UNKNOWN])])
    prior = make_prior(boxes)
    assert prior.shape == (2, *PRIOR_SHAPE)
    middle = prior[0, :, 8, 8].exp() - PRIOR_FLOOR
    assert middle[5].item() == pytest.approx(1.0, abs=1e-5)  # in both series
    assert middle[40].item() == pytest.approx(0.5, abs=1e-5)  # in one of two
    assert (prior[1] == math.log(PRIOR_FLOOR)).all()  # never seen: alike everywhere


def test_attention_begins_where_the_organ_is_in_other_patients() -> None:
    torch.manual_seed(0)
    head = OrganQueryHead(FeatureLayout(6, (8, 8)), ORGAN_TARGETS, OPTIONS)
    assert isinstance(head, OrganQueryHead)
    liver = box((0, 100), (0.0, 0.5), (0.0, 0.5))
    boxes = torch.stack([UNKNOWN, UNKNOWN, liver, UNKNOWN])[None]
    head.set_prior(boxes)
    depths = (torch.arange(12.0) * 25 + 12.5).flip(0)[None]
    values = torch.randn(1, 12, 64, 6)
    attention = head(values, depths).attention
    inside = box_masks(boxes, depths, (8, 8))[0, 2].flatten(1)
    assert inside.float().mean() < 0.1
    assert attention["liver"][0][inside].sum() > 0.5
    assert attention["spleen"][0][inside].sum() < 0.2


def test_attention_loss_by_hand() -> None:
    # Two regions of one volume, three places; the second region has no box.
    attention = [torch.tensor([[[0.2, 0.3, 0.5]]]), torch.tensor([[[1.0, 0.0, 0.0]]])]
    masks = torch.tensor([[[[[1.0, 1, 0]]], [[[0.0, 0, 0]]]]])
    assert attention_loss(attention, masks).item() == pytest.approx(-math.log(0.5) / 2)


def test_attention_is_learnt_from_boxes() -> None:
    torch.manual_seed(0)
    head = OrganQueryHead(FeatureLayout(6, (4, 4)), ORGAN_TARGETS, OPTIONS)
    depths = torch.linspace(300, 20, 6).expand(2, -1)
    boxes = torch.stack([box((0, 100), (0.0, 0.5), (0.5, 1.0))] * 4)[None].expand(2, -1, -1, -1)
    masks, values = box_masks(boxes, depths, (4, 4)), torch.randn(2, 6, 16, 6)
    optimizer = torch.optim.Adam(head.parameters(), lr=0.02)
    losses = []
    for _ in range(60):
        loss = attention_loss(list(head(values, depths).attention.values()), masks)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] > 1.5
    assert losses[-1] < 0.1
