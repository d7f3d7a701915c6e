"""Scores of `OrganQueryHead` in fewer operations, if the positions of places are all that varies.

Keys are used in products with queries only. The linear layers of keys and places are therefore
applied to the few queries instead of the many places. The encoding of a place is that of its depth,
row and column side by side, so its score is a sum of three. The prior is interpolated along rows
and columns once. `OrganQueryHead.forward` has the same scores up to rounding.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from voco_models.networks.organ_queries import (
    PRIOR_DEPTH_MM,
    OrganQueryHead,
    encode_places,
    place_coordinates,
)


class FactoredScores:
    """The scores of a head whose prior is set and stays the same. Its weights may change."""

    def __init__(self, head: OrganQueryHead) -> None:
        self._head = head
        centres = place_coordinates(head.prior.new_zeros(1, 1), head.places)[0, 0]  # (h, w, 3)
        encoded = encode_places(centres)
        self._rows, self._columns = encoded[:, 0, 1::3], encoded[0, :, 2::3]  # (h, E), (w, E)
        sampled = functional.grid_sample(
            head.prior.flatten(0, 1)[None],
            (2 * centres[None, :, :, 1:] - 1).flip(-1),  # x, y
            align_corners=False,
            padding_mode="border",
        )
        self._prior = sampled.reshape(*head.prior.shape[:2], -1)  # (R, depths, h * w)

    def __call__(self, embedded: Tensor, depths_mm: Tensor) -> Tensor:
        """Scores (B, R, N) of embedded features (B, N, D), of slices at `depths_mm` (B, Z).

        N is Z * h * w.
        """
        head = self._head
        queries = head.queries / math.sqrt(head.queries.shape[1])  # (R, D)
        of_keys = queries @ head.key.weight  # (R, D)
        of_places = of_keys @ head.place.weight  # (R, 3 E): of depth, row, column in turn
        constant = of_keys @ head.place.bias + queries @ head.key.bias  # (R,)
        depths = encode_places(place_coordinates(depths_mm, (1, 1)))[:, :, 0, 0, 0::3]  # (B, Z, E)
        by_place = (
            functional.linear(depths, of_places[:, 0::3], constant)[:, :, None, None]
            + functional.linear(self._rows, of_places[:, 1::3])[:, None]
            + functional.linear(self._columns, of_places[:, 2::3])
        )  # (B, Z, h, w, R)
        scores = functional.linear(embedded, of_keys) + by_place.flatten(1, 3)  # (B, N, R)
        prior = self._prior_at(depths_mm)
        return scores.transpose(1, 2) + head.trust[:, None] * prior

    def _prior_at(self, depths_mm: Tensor) -> Tensor:
        """The logarithm of the prior at all places of slices, (B, R, N)."""
        n_depths = self._prior.shape[1]
        at = depths_mm.float().flatten() * (n_depths / PRIOR_DEPTH_MM) - 0.5
        at = at.clamp(0, n_depths - 1)  # beyond both ends, the prior is that of the end
        above = at.floor().long().clamp(max=n_depths - 2)
        share = (at - above)[None, :, None]
        found = torch.lerp(self._prior[:, above], self._prior[:, above + 1], share)
        return found.reshape(len(found), *depths_mm.shape, -1).transpose(0, 1).flatten(2)
