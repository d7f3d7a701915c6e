"""Heads of the classifier: features of slices to logits of the target groups.

A head takes features (B, Z, P, F): F numbers of each of P places in each of Z slices. To add one,
write a subclass of `Head`, and add a line to `HEADS` in `classifier.py`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn

from voco_data.labels import TargetTable

FeatureNorm = Literal["none", "batch"]
"""Normalisation of features: of a slice's vectors before a head, and inside `organ_queries` of the
features of regions, before they are graded. Batch norm helps with few data."""
SliceReduction = Literal["max", "max_mean"]
"""Slices to one vector: the maximum, or the maximum and the mean concatenated. The gradient of the
mean reaches every slice, that of the maximum only the strongest slice."""


VALUES_PER_CALL = 2**24
"""Largest number of features in a call of `Head.replace_each_slice`: it bounds the memory."""


@dataclass(frozen=True, slots=True)
class FeatureLayout:
    """Shape of the features of a slice."""

    channels: int
    """Features F of a place."""
    places: tuple[int, int]
    """Rows and columns of places; P is their product."""

    @property
    def width(self) -> int:
        """Features of a slice, of all its places."""
        return self.channels * self.places[0] * self.places[1]


@dataclass(frozen=True, slots=True)
class HeadOptions:
    """Settings that all heads share."""

    hidden: int = 128
    """Width; of an LSTM or GRU, in each direction."""
    layers: int = 1
    dropout: float = 0.0
    """Probability that a feature is dropped before the last layer."""
    over_slices: SliceReduction = "max"
    """Of the head `bilstm`."""
    norm: FeatureNorm = "none"
    """Of the head `organ_queries`. Features of regions differ little between patients, so that
    batch norm speeds up training much. It needs batches of 8 or more."""


DEFAULT_OPTIONS = HeadOptions()


class HeadOutput(NamedTuple):
    """What a head says of B volumes."""

    logits: dict[str, Tensor]
    """(B, C) by group, in the order of the target table."""
    attention: Mapping[str, Tensor] = MappingProxyType({})
    """Weights of slices (B, Z), or of places in slices (B, Z, P), which sum to 1; by group, or by
    region of the body. Empty for a head without attention."""
    slices: Mapping[str, Tensor] = MappingProxyType({})
    """Logits (B, Z) that a slice shows an injury, by group. Empty for a head that does not score
    slices."""


class Head(nn.Module):
    """Features of slices (B, Z, P, F) to logits."""

    needs_geometry: ClassVar[bool] = False
    """Whether the head needs the depths of slices."""
    keeps_places: ClassVar[bool] = False
    """Whether the head knows where a place is in the body. Flips would then mislead it."""

    @abstractmethod
    def __init__(
        self, layout: FeatureLayout, targets: TargetTable, options: HeadOptions = DEFAULT_OPTIONS
    ) -> None:
        super().__init__()

    @abstractmethod
    def forward(self, features: Tensor, depths_mm: Tensor | None = None) -> HeadOutput:
        """Logits of features (B, Z, P, F).

        `depths_mm` (B, Z) are the distances of the slices from the superior end of the stored box.
        Heads that need them raise ValueError without.
        """

    def replace_each_slice(
        self, features: Tensor, replaced: Tensor, depths_mm: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Logits (Z, C) by group: those in row z are of the volume with another slice z.

        `features` (1, Z, P, F) are of the volume and `replaced` of the other slices. `depths_mm`
        (1, Z) as in `forward`. The head must be in evaluation mode.
        """
        n = features.shape[1]
        per_call = max(1, VALUES_PER_CALL // features.numel())
        parts: dict[str, list[Tensor]] = {}
        for start in range(0, n, per_call):
            changed = torch.arange(start, min(n, start + per_call), device=features.device)
            variants = features.expand(len(changed), -1, -1, -1).clone()
            variants[torch.arange(len(changed), device=features.device), changed] = replaced[
                0, changed
            ]
            depths = None if depths_mm is None else depths_mm.expand(len(changed), -1)
            for name, logits in self(variants, depths).logits.items():
                parts.setdefault(name, []).append(logits)
        return {name: torch.cat(logits) for name, logits in parts.items()}


class GroupHeads(nn.Module):
    """One linear layer per target group: (B, F) -> logits (B, C) for each group of C classes."""

    def __init__(self, num_features: int, targets: TargetTable) -> None:
        super().__init__()
        self.heads = nn.ModuleDict(
            {group.name: nn.Linear(num_features, len(group.classes)) for group in targets}
        )

    def forward(self, features: Tensor) -> dict[str, Tensor]:
        """Logits (B, C) by group of features (B, F), in the order of the target table."""
        return {name: head(features) for name, head in self.heads.items()}

    def of_each(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """Logits (B, C) by group, each of its own features (B, F)."""
        return {name: head(features[name]) for name, head in self.heads.items()}


def flatten_places(features: Tensor) -> Tensor:
    """One vector (B, Z, F * P) for each slice of features (B, Z, P, F), feature by feature."""
    return features.transpose(2, 3).flatten(2)
