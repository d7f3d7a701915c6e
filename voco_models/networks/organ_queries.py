"""The head that looks for each organ where it is: attention over all places of all slices.

Each region of the body has a query. Its attention is high at places that look like the region, and
at places where the region is in other patients: the prior, which is made of the boxes of organs in
the training series that have masks. A group is graded by the features of its regions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from voco_data.labels import TargetTable
from voco_models.networks.heads import (
    DEFAULT_OPTIONS,
    FeatureLayout,
    Head,
    HeadOptions,
    HeadOutput,
)

REGIONS: dict[str, tuple[str, ...]] = {"kidney": ("kidney_left", "kidney_right")}
"""Regions of a group; a group that is not listed is its own region."""

PRIOR_SHAPE = (48, 16, 16)
"""Depths, rows and columns of the prior."""
PRIOR_DEPTH_MM = 600.0
"""Depth of the last row of the prior, below the superior end of the stored box."""
PRIOR_FLOOR = 0.02
"""Share of training series that is added to each place of the prior: no place is impossible."""
UNIT_DEPTH_MM = 400.0
"""Depth that the encoding of places takes as 1."""
N_WAVES = 4
SHARPNESS = 4.0
"""Of the soft maximum; a larger one is nearer to the maximum. The weights of values are multiplied
by it instead of the values, which are many more. A power of 2 does not round."""
LARGEST_EXPONENT = 30.0


def regions_of(targets: TargetTable) -> tuple[str, ...]:
    """Regions that the groups of a table are graded by, named as in a store's records."""
    return tuple(region for name in targets.names for region in REGIONS.get(name, (name,)))


class OrganQueryHead(Head):
    """Attention over places by region, and two layers for each group."""

    needs_geometry = True
    keeps_places = True
    prior: Tensor

    def __init__(
        self, layout: FeatureLayout, targets: TargetTable, options: HeadOptions = DEFAULT_OPTIONS
    ) -> None:
        super().__init__(layout, targets, options)
        width = options.hidden
        self.regions = regions_of(targets)
        self._groups = {name: REGIONS.get(name, (name,)) for name in targets.names}
        self.places = layout.places
        self.embed = nn.Linear(layout.channels, width)
        self.place = nn.Linear(3 * (1 + 2 * N_WAVES), width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.queries = nn.Parameter(0.1 * torch.randn(len(self.regions), width))
        self.trust = nn.Parameter(torch.ones(len(self.regions)))
        """Factor of the logarithm of the prior, by region."""
        self.grades = nn.ModuleDict(
            {
                group.name: nn.Sequential(
                    nn.Linear(2 * width, width),
                    nn.ReLU(),
                    nn.Dropout(options.dropout),
                    nn.Linear(width, len(group.classes)),
                )
                for group in targets
            }
        )
        self.norm = (
            nn.BatchNorm1d(len(self.regions) * 2 * width)
            if options.norm == "batch"
            else nn.Identity()
        )
        self.register_buffer("prior", torch.zeros(len(self.regions), *PRIOR_SHAPE))

    def set_prior(self, boxes: Tensor) -> None:
        """Set the prior from boxes (N, R, 2, 3) of N series; see `box_masks`."""
        self.prior.copy_(make_prior(boxes))

    def forward(self, features: Tensor, depths_mm: Tensor | None = None) -> HeadOutput:
        """Logits of features (B, Z, P, F), and the attention (B, Z, P) of each region."""
        if depths_mm is None:
            raise ValueError("this head needs the depths of the slices")
        places = place_coordinates(depths_mm, self.places)  # (B, Z, h, w, 3)
        with torch.autocast(features.device.type, enabled=False):
            embedded = self.embed(features.float()).relu().flatten(1, 2)  # (B, N, D)
            keys = self.key(embedded + self.place(encode_places(places)).flatten(1, 3))
            scores = keys @ self.queries.T / math.sqrt(keys.shape[-1])  # (B, N, R)
            scores = scores + self.trust * self._prior_at(places)
            return self.grade(embedded, scores.transpose(1, 2), features.shape[1])

    def grade(self, embedded: Tensor, scores: Tensor, n_slices: int) -> HeadOutput:
        """The output for embedded features (B, N, D) of the N places of all slices.

        The softmax of `scores` (B, R, N) is the attention of the regions.
        """
        weights = scores.softmax(dim=-1)  # (B, R, N)
        value = self.value
        scaled = functional.linear(embedded, SHARPNESS * value.weight, SHARPNESS * value.bias)
        mean = weights @ scaled.relu() / SHARPNESS
        largest = weights @ functional.hardtanh(scaled, 0.0, LARGEST_EXPONENT).exp()
        found = torch.cat([mean, largest.log() / SHARPNESS], dim=-1)  # (B, R, 2 D)
        found = self.norm(found.flatten(1)).reshape(found.shape)
        by_region = dict(zip(self.regions, found.unbind(dim=1), strict=True))
        logits = {
            group: self.grades[group](
                torch.stack([by_region[region] for region in regions]).amax(dim=0)
            )
            for group, regions in self._groups.items()
        }
        shaped = weights.reshape(*weights.shape[:2], n_slices, -1)
        return HeadOutput(logits, dict(zip(self.regions, shaped.unbind(dim=1), strict=True)))

    def _prior_at(self, places: Tensor) -> Tensor:
        """The logarithm of the prior at places (B, Z, h, w, 3): (B, Z * h * w, R)."""
        scale = places.new_tensor([2 / PRIOR_DEPTH_MM, 2.0, 2.0])
        grid = (places * scale - 1).flip(-1)  # x, y, depth, as grid_sample expects
        sampled = functional.grid_sample(
            self.prior.expand(places.shape[0], *self.prior.shape),
            grid,
            align_corners=False,
            padding_mode="border",
        )  # (B, R, Z, h, w)
        return sampled.flatten(2).transpose(1, 2)


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


def make_prior(boxes: Tensor) -> Tensor:
    """Logarithms of the share of series whose region contains a place, (R, *PRIOR_SHAPE).

    `boxes` (N, R, 2, 3) as in `box_masks`. A region without a box has the same value everywhere.
    """
    n_depths, h, w = PRIOR_SHAPE
    depths = (torch.arange(n_depths, device=boxes.device) + 0.5) * (PRIOR_DEPTH_MM / n_depths)
    masks = box_masks(boxes, depths.expand(len(boxes), -1), (h, w)).float()  # (N, R, ...)
    known = boxes.isfinite().all(dim=(2, 3)).sum(dim=0)  # (R,)
    shares = masks.sum(dim=0) / known.clamp(min=1)[:, None, None, None]
    return (functional.avg_pool3d(shares, 3, stride=1, padding=1) + PRIOR_FLOOR).log()


def attention_loss(attention: Sequence[Tensor], masks: Tensor) -> Tensor:
    """-log of the attention inside known boxes, mean over all B volumes and R regions.

    `attention` is R tensors (B, Z, P), `masks` (B, R, Z, h, w) from `box_masks`. A region without
    places in its mask adds 0.
    """
    weights = torch.stack(list(attention), dim=1).flatten(2)  # (B, R, N)
    inside = masks.flatten(2).to(weights.dtype)
    mass = (weights * inside).sum(dim=-1)
    known = inside.sum(dim=-1) > 0
    losses = -mass.clamp(min=1e-6).log()
    return torch.where(known, losses, torch.zeros_like(losses)).mean()
