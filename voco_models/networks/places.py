"""Places of a volume: the points at which the slices have features.

A place has a depth in mm below the superior end of the stored box, and a row and a column from 0
to 1.
"""

from __future__ import annotations

import math
from typing import NamedTuple, Self

import torch
from torch import Tensor
from torch.nn import functional

UNIT_DEPTH_MM = 400.0
"""Depth that the encoding of places takes as 1."""
N_WAVES = 4
ENCODED = 3 * (1 + 2 * N_WAVES)
"""Numbers in the encoding of a place."""


def place_coordinates(depths_mm: Tensor, places: tuple[int, int]) -> Tensor:
    """Centres (B, Z, h, w, 3) of places: depth in mm, then row and column from 0 to 1."""
    h, w = places
    B, Z = depths_mm.shape
    ys, xs = ((torch.arange(n, device=depths_mm.device) + 0.5) / n for n in (h, w))
    axes = (
        depths_mm.float()[:, :, None, None],
        ys[None, None, :, None],
        xs[None, None, None, :],
    )
    return torch.stack([axis.expand(B, Z, h, w) for axis in axes], dim=-1)


def encode_places(places: Tensor) -> Tensor:
    """Coordinates and their sines and cosines, (..., 27), of `place_coordinates` (..., 3)."""
    unit = places / places.new_tensor([UNIT_DEPTH_MM, 1.0, 1.0])
    angles = [2 * math.pi * unit * 2.0**power for power in range(-2, N_WAVES - 2)]
    waves = [wave for angle in angles for wave in (angle.sin(), angle.cos())]
    return torch.cat([2 * unit - 1, *waves], dim=-1)


class PlaceEncoding(NamedTuple):
    """The encodings of all places of B volumes, by axis: that of a place has those of its depth,
    row and column in turn, E numbers each; see `encode_places`."""

    depths: Tensor
    """(B, Z, E)."""
    rows: Tensor
    """(h, E)."""
    columns: Tensor
    """(w, E)."""

    @classmethod
    def of(cls, depths_mm: Tensor, places: tuple[int, int]) -> Self:
        """For slices at `depths_mm` (B, Z), of h x w places each."""
        in_plane = encode_places(place_coordinates(depths_mm.new_zeros(1, 1), places))[0, 0]
        of_depths = encode_places(place_coordinates(depths_mm, (1, 1)))[:, :, 0, 0, 0::3]
        return cls(of_depths, in_plane[:, 0, 1::3], in_plane[0, :, 2::3])

    def project(self, weight: Tensor, bias: Tensor) -> Tensor:
        """A linear layer of the encodings, (B, Z, h * w, F), from a `weight` of (F, 3 E).

        The sum over the axes takes few operations, since a row has the same share in all slices.
        """
        of_depths = functional.linear(self.depths, weight[:, 0::3], bias)  # (B, Z, F)
        of_rows = functional.linear(self.rows, weight[:, 1::3])  # (h, F)
        of_columns = functional.linear(self.columns, weight[:, 2::3])  # (w, F)
        in_plane = (of_rows[:, None] + of_columns).flatten(0, 1)
        return of_depths[:, :, None] + in_plane


def box_masks(boxes: Tensor, depths_mm: Tensor, places: tuple[int, int]) -> Tensor:
    """Which places are inside boxes: bool (B, R, Z, h, w).

    `boxes` (B, R, 2, 3) are lowest and highest (depth in mm, row, column) as in
    `place_coordinates`; a box that is not known is NaN, and contains no place.
    """
    at = place_coordinates(depths_mm, places)
    along = (at[:, None, :, 0, 0, 0], at[:, None, 0, :, 0, 1], at[:, None, 0, 0, :, 2])
    in_depth, in_rows, in_columns = (
        (of_axis >= boxes[:, :, 0, axis, None]) & (of_axis <= boxes[:, :, 1, axis, None])
        for axis, of_axis in enumerate(along)
    )  # (B, R, Z), (B, R, h), (B, R, w)
    return in_depth[..., None, None] & in_rows[:, :, None, :, None] & in_columns[:, :, None, None]
