"""Detectors of findings: soft maxima and losses computed by hand, and a spot that they find."""

from __future__ import annotations

import math

import pytest
import torch
from sklearn.metrics import log_loss

from voco_data.labels.targets import RSNA_TARGETS
from voco_models.networks.findings import (
    SHARPNESS,
    FindingDetector,
    slice_loss,
    soft_maximum,
)
from voco_models.networks.heads import FeatureLayout, HeadOptions
from voco_models.networks.organ_queries import OrganQueryHead
from voco_models.networks.places import ENCODED, PlaceEncoding


def test_soft_maximum_by_hand() -> None:
    scores = torch.tensor([[2.0, 2.0], [0.0, math.log(3) / SHARPNESS]])
    # log((1 + 3) / 2) / sharpness
    assert soft_maximum(scores, dim=1).tolist() == pytest.approx([2.0, math.log(2) / SHARPNESS])
    large = soft_maximum(torch.tensor([500.0, -500.0]), dim=0)  # no overflow
    assert float(large) == pytest.approx(500 - math.log(2) / SHARPNESS)


def test_a_detector_scores_volumes_by_their_highest_slice() -> None:
    torch.manual_seed(0)
    detector = FindingDetector(8).eval()
    features, place = torch.randn(2, 5, 6, 8), torch.nn.Linear(ENCODED, 8)
    encoding = PlaceEncoding.of(torch.full((2, 5), 100.0), (2, 3))  # the same in all slices
    found = detector(features, encoding, place)
    assert found.attention.sum(dim=(1, 2)).tolist() == pytest.approx([1, 1])
    order = torch.randperm(5)
    moved = detector(features[:, order], encoding, place)
    torch.testing.assert_close(moved.volume, found.volume)
    torch.testing.assert_close(moved.slices, found.slices[:, order])
    best = found.attention.sum(dim=2).argmax(dim=1)
    assert best.tolist() == found.slices.argmax(dim=1).tolist()


def test_slice_loss_is_scikit_learns_of_the_known_slices() -> None:
    torch.manual_seed(1)
    logits = torch.randn(3, 2, 4, dtype=torch.float64)
    labels = (torch.rand(3, 2, 4) < 0.5).double()
    labels[1, 0] = math.nan
    weights = torch.tensor([[0.9, 1.8], [0.5, 3.0]], dtype=torch.float64)
    known = labels.isfinite()
    by_slice = torch.where(labels > 0.5, weights[:, 1, None], weights[:, 0, None])
    mean = log_loss(labels[known], logits.sigmoid()[known], sample_weight=by_slice[known])
    expected = mean * float(by_slice[known].mean())  # it divides by the weights, not by the slices
    assert float(slice_loss(logits, labels, weights)) == pytest.approx(expected, abs=1e-12)


def test_unknown_slices_have_no_loss_and_no_gradient() -> None:
    logits = torch.randn(1, 1, 3, requires_grad=True)
    loss = slice_loss(logits, torch.full((1, 1, 3), math.nan), torch.ones(1, 2))
    loss.backward()  # type: ignore[no-untyped-call]
    assert float(loss.detach()) == 0
    assert logits.grad is not None
    assert not logits.grad.any()


def test_the_head_learns_a_bright_place() -> None:
    """One bright place in one of six slices, anywhere: found from labels of volumes and slices."""
    torch.manual_seed(2)
    head = OrganQueryHead(
        FeatureLayout(4, (4, 4)), RSNA_TARGETS.select(["bowel", "liver"]), HeadOptions(hidden=16)
    )
    optimizer = torch.optim.Adam(head.parameters(), lr=1e-2)
    depths = torch.linspace(300, 0, 6).expand(16, -1)
    for _ in range(150):
        features, truth, where = spots(16)
        output = head(features, depths)
        loss = torch.nn.functional.cross_entropy(output.logits["bowel"], truth)
        labels = torch.zeros(16, 1, 6)
        labels[torch.arange(16), 0, where] = truth.float()
        loss = loss + slice_loss(output.slices["bowel"][:, None], labels, torch.ones(1, 2))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    features, truth, where = spots(16)
    output = head(features, depths)
    assert list(output.logits) == ["bowel", "liver"]
    assert list(output.attention) == ["bowel", "liver"]
    assert output.logits["bowel"].argmax(dim=1).tolist() == truth.tolist()
    found = output.slices["bowel"].argmax(dim=1)
    assert found[truth == 1].tolist() == where[truth == 1].tolist()


def spots(count: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Noise (count, 6, 16, 4) with a spot in every second volume, the classes, and its slices."""
    features = 0.3 * torch.randn(count, 6, 16, 4)
    truth = torch.arange(count) % 2
    where, place = torch.randint(6, (count,)), torch.randint(16, (count,))
    features[torch.arange(count), where, place, 0] += 3.0 * truth
    return features, truth, where
