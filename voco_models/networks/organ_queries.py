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
from voco_models.networks.findings import FINDINGS, FindingDetector
from voco_models.networks.heads import (
    DEFAULT_OPTIONS,
    FeatureLayout,
    Head,
    HeadOptions,
    HeadOutput,
)
from voco_models.networks.places import ENCODED, PlaceEncoding, box_masks, place_coordinates

REGIONS: dict[str, tuple[str, ...]] = {"kidney": ("kidney_left", "kidney_right")}
"""Regions of a group; a group that is not listed is its own region."""

PRIOR_SHAPE = (48, 16, 16)
"""Depths, rows and columns of the prior."""
PRIOR_DEPTH_MM = 600.0
"""Depth of the last row of the prior, below the superior end of the stored box."""
PRIOR_FLOOR = 0.02
"""Share of training series that is added to each place of the prior: no place is impossible."""
SHARPNESS = 4.0
"""Of the soft maximum; a larger one is nearer to the maximum. It multiplies the weights of the
values instead of the values, which are many more."""
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
        self._searched = [i for i, name in enumerate(self.regions) if name not in FINDINGS]
        """Indices of the regions that have a query."""
        self._names = targets.names
        self._places = layout.places
        self.embed = nn.Linear(layout.channels, width)
        self.place = nn.Linear(ENCODED, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.queries = nn.Parameter(0.1 * torch.randn(len(self._searched), width))
        self.trust = nn.Parameter(torch.ones(len(self._searched)))
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
                if group.name not in FINDINGS
            }
        )
        self.findings = nn.ModuleDict(
            {
                name: FindingDetector(width, options.dropout)
                for name in targets.names
                if name in FINDINGS
            }
        )
        self.context = nn.ModuleDict(
            {name: _zero_layer(self._count_grades(targets)) for name in self.findings}
            if self.grades
            else {}
        )
        """From the probabilities of the organs' grades to the logit of a finding: a bleed is more
        likely if an organ is badly injured."""
        self.norm = (
            nn.BatchNorm1d(len(self._searched) * 2 * width)
            if options.norm == "batch" and self._searched
            else nn.Identity()
        )
        self.register_buffer("prior", torch.zeros(len(self._searched), *PRIOR_SHAPE))

    def set_prior(self, boxes: Tensor) -> None:
        """Set the prior from boxes (N, R, 2, 3) of N series; see `box_masks`."""
        if self._searched:
            self.prior.copy_(make_prior(boxes[:, self._searched]))

    def forward(self, features: Tensor, depths_mm: Tensor | None = None) -> HeadOutput:
        """Logits of features (B, Z, P, F), and the attention (B, Z, P) of each region."""
        if depths_mm is None:
            raise ValueError("this head needs the depths of the slices")
        places = place_coordinates(depths_mm, self._places)  # (B, Z, h, w, 3)
        with torch.autocast(features.device.type, enabled=False):
            embedded = self.embed(features.float()).relu()  # (B, Z, P, D)
            encoding = PlaceEncoding.of(depths_mm, self._places)
            logits: dict[str, Tensor] = {}
            attention: dict[str, Tensor] = {}
            if self.grades:
                logits, weights = self._grade_organs(embedded, encoding, self._prior_at(places))
                attention = {
                    self.regions[index]: weights[:, row] for row, index in enumerate(self._searched)
                }
            found = {
                name: detect(embedded, encoding, self.place)
                for name, detect in self.findings.items()
            }
            graded = [z.detach().softmax(dim=1) for z in logits.values()]
            for name, of_finding in found.items():
                score = of_finding.volume
                if graded:
                    score = score + self.context[name](torch.cat(graded, dim=1)).squeeze(1)
                logits[name] = torch.stack([-score, score], dim=1) / 2
                attention[name] = of_finding.attention
        return HeadOutput(
            logits={name: logits[name] for name in self._names},
            attention={region: attention[region] for region in self.regions},
            slices={name: of_finding.slices for name, of_finding in found.items()},
        )

    def _grade_organs(
        self, embedded: Tensor, encoding: PlaceEncoding, prior: Tensor
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Logits (B, C) of the organs, and the attention (B, R, Z, P) of their regions."""
        Z, P = embedded.shape[1:3]
        scores = self._match(embedded, encoding).flatten(1, 2)  # (B, N, R)
        weights = (scores + self.trust * prior).transpose(1, 2).softmax(dim=-1)  # (B, R, N)
        value = self.value
        values = functional.linear(
            embedded.flatten(1, 2), SHARPNESS * value.weight, SHARPNESS * value.bias
        )
        mean = weights @ values.relu() / SHARPNESS
        largest = weights @ functional.hardtanh(values, 0.0, LARGEST_EXPONENT).exp()
        found = torch.cat([mean, largest.log() / SHARPNESS], dim=-1)  # (B, R, 2 D)
        return self._grade_regions(found), weights.reshape(*weights.shape[:2], Z, P)

    def _grade_regions(self, found: Tensor) -> dict[str, Tensor]:
        """Logits (B, C) of the organs, by the features (B, R, 2 D) of their regions."""
        found = self.norm(found.flatten(1)).unflatten(1, found.shape[1:])
        by_region = dict(
            zip((self.regions[i] for i in self._searched), found.unbind(dim=1), strict=True)
        )
        return {
            group: grade(
                torch.stack([by_region[name] for name in REGIONS.get(group, (group,))]).amax(dim=0)
            )
            for group, grade in self.grades.items()
        }

    def replace_each_slice(
        self, features: Tensor, replaced: Tensor, depths_mm: Tensor | None = None
    ) -> dict[str, Tensor]:
        """As `Head.replace_each_slice`, in time linear in Z.

        The features of a region are quotients of sums over places, so those of a changed volume
        are sums over slices. Findings are graded by their highest slices, which are no sums.
        """
        if self.findings or depths_mm is None:
            return super().replace_each_slice(features, replaced, depths_mm)
        own, other = (self._score_places(each, depths_mm) for each in (features, replaced))
        peak = torch.maximum(*(scores.amax(dim=(1, 2), keepdim=True) for scores, _ in (own, other)))
        sums, replaced_sums = (
            _sum_slices(scores - peak, values) for scores, values in (own, other)
        )
        others = 1 - torch.eye(len(sums[0]), dtype=sums.dtype, device=sums.device)  # (Z, Z)
        changed = others @ sums + replaced_sums  # (R, Z, 1 + 2 D)
        mean, largest = (changed[..., 1:] / changed[..., :1]).chunk(2, dim=-1)
        found = torch.cat([mean / SHARPNESS, largest.log() / SHARPNESS], dim=-1)
        return self._grade_regions(found.transpose(0, 1).float())

    def _score_places(self, features: Tensor, depths_mm: Tensor) -> tuple[Tensor, Tensor]:
        """Scores (R, Z, P) of regions at all places of a volume, and the values (Z, P, D) there.

        The attention is the softmax of the scores; `features` (1, Z, P, F).
        """
        embedded = self.embed(features.float()).relu()
        scores = self._match(embedded, PlaceEncoding.of(depths_mm, self._places))
        prior = self._prior_at(place_coordinates(depths_mm, self._places)).reshape(scores.shape)
        values = SHARPNESS * self.value(embedded)
        return (scores + self.trust * prior)[0].permute(2, 0, 1), values[0]

    @staticmethod
    def _count_grades(targets: TargetTable) -> int:
        """Number of probabilities of all organs."""
        return sum(len(group.classes) for group in targets if group.name not in FINDINGS)

    def _match(self, embedded: Tensor, encoding: PlaceEncoding) -> Tensor:
        """Products (B, Z, P, R) of the queries with the keys of places, key(embedded + place).

        Keys are linear in features and places. So the queries are multiplied by the weights once,
        instead of computing D numbers for each place.
        """
        queries = self.queries @ self.key.weight / math.sqrt(self.queries.shape[1])  # (R, D)
        constant = self.queries @ self.key.bias / math.sqrt(self.queries.shape[1])
        of_places = encoding.project(
            queries @ self.place.weight, queries @ self.place.bias + constant
        )
        return functional.linear(embedded, queries) + of_places

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


def _sum_slices(scores: Tensor, values: Tensor) -> Tensor:
    """Sums over the places of each slice, weighted with exp(score): (R, Z, 1 + 2 D), float64.

    The sums are of 1, of the rectified values, and of the exponentials of the bounded values.
    `scores` (R, Z, P), `values` (Z, P, D).
    """
    kinds = [
        torch.ones_like(values[..., :1]),
        values.relu(),
        functional.hardtanh(values, 0.0, LARGEST_EXPONENT).exp(),
    ]
    return torch.einsum("rzp,zpd->rzd", scores.double().exp(), torch.cat(kinds, dim=-1).double())


def _zero_layer(width: int) -> nn.Linear:
    """A layer of `width` numbers to one, which adds nothing before it is trained."""
    layer = nn.Linear(width, 1, bias=False)
    nn.init.zeros_(layer.weight)
    return layer


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
