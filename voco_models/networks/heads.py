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

from torch import Tensor, nn

from voco_data.labels import TargetTable

FeatureNorm = Literal["none", "batch"]
"""Normalisation of features: of a slice's vectors before a head, and inside `organ_queries` of the
features of regions, before they are graded. Batch norm helps with few data."""
SliceReduction = Literal["max", "max_mean"]
"""Slices to one vector: the maximum, or the maximum and the mean concatenated. The gradient of the
mean reaches every slice, that of the maximum only the strongest slice."""


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
