"""Findings: signs of an injury that may be at any place, such as free gas or a bleed.

An organ is graded by what it looks like as a whole. A finding is small, and most of the volume says
nothing about it. So a slice is scored by the largest value of each feature over its places
wherever they are, and a volume by its highest slices.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from voco_models.networks.places import PlaceEncoding

FINDINGS = ("bowel", "extravasation")
"""Target groups that are graded by findings."""
SHARPNESS = 4.0
"""Of the soft maximum; a larger one is nearer to the maximum."""


class FoundIn(NamedTuple):
    """Scores of one finding, as logits."""

    volume: Tensor
    """(B,)."""
    slices: Tensor
    """(B, Z)."""
    attention: Tensor
    """(B, Z, P): shares of the places in the scores, which sum to 1; without gradient."""


class FindingDetector(nn.Module):
    """Features of places (B, Z, P, D) to the scores of one finding."""

    def __init__(self, width: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.hidden = nn.Linear(width, width)
        self.norm = nn.BatchNorm1d(width)
        self.dropout = nn.Dropout(dropout)
        self.score = nn.Linear(width, 1)
        self.scale = nn.Parameter(torch.ones(()))
        """From the soft maximum of the slices to the logit of the volume, with `shift`."""
        self.shift = nn.Parameter(torch.zeros(()))

    def forward(self, features: Tensor, encoding: PlaceEncoding, place: nn.Linear) -> FoundIn:
        """Largest features of each slice, its score from them, and that of the volume.

        `place` makes D features of the encoding of a place; they are added to `features`.
        """
        weight = self.hidden.weight
        hidden = self.hidden(features) + encoding.project(
            weight @ place.weight, weight @ place.bias
        )
        largest, places = hidden.max(dim=2)  # (B, Z, D)
        largest = self.norm(largest.flatten(0, 1)).reshape(largest.shape).relu()
        slices = self.score(self.dropout(largest)).squeeze(-1)
        return FoundIn(
            volume=self.scale * soft_maximum(slices, dim=1) + self.shift,
            slices=slices,
            attention=self._attribute(largest.detach(), places, slices.detach(), features.shape[2]),
        )

    def _attribute(self, largest: Tensor, places: Tensor, slices: Tensor, n_places: int) -> Tensor:
        """The attention of slices, divided among places by what their features add to the score."""
        added = (largest * self.score.weight.detach()[0]).clamp(min=0) + 1e-6  # (B, Z, D)
        of_places = added.new_zeros(*added.shape[:2], n_places).scatter_add(2, places, added)
        of_slices = (SHARPNESS * slices).softmax(dim=1)
        return of_places / of_places.sum(dim=2, keepdim=True) * of_slices[:, :, None]


def soft_maximum(scores: Tensor, dim: int) -> Tensor:
    """Logarithm of the mean of exp(`SHARPNESS` x score), divided by `SHARPNESS`.

    It is at most the maximum, and at least the mean. Equal scores give their value.
    """
    total = torch.logsumexp(SHARPNESS * scores, dim=dim)
    return (total - math.log(scores.shape[dim])) / SHARPNESS


def slice_loss(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """Weighted binary cross-entropy of F findings in slices, mean over the labelled slices.

    `logits` and `labels` are (B, F, Z); a label is 1 if the slice shows the finding, 0 if not, and
    NaN if that is not known. `weights` (F, 2) are those of slices without and with the finding.
    The loss of a batch without labelled slices is 0.
    """
    known = labels.isfinite()
    target = torch.where(known, labels, torch.zeros_like(labels))
    by_label = torch.where(target > 0.5, weights[:, 1, None], weights[:, 0, None])
    losses = functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
    weighted = torch.where(known, losses * by_label, torch.zeros_like(losses))
    return weighted.sum() / known.sum().clamp(min=1)
