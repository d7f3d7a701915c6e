"""The slice-sequence classifier: a CNN on every slice, a sequence model over slices, and heads."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from voco_data.labels import ORGAN_TARGETS, TargetTable
from voco_models.networks.encoder import Backbone
from voco_models.networks.sequence_models import BILSTM, create_sequence_model

SlicePooling = Literal["mean", "quadrants"]
"""How a slice's feature map becomes one vector: its mean, or the maximum of each quadrant."""
QUADRANTS = (2, 2)
FeatureNorm = Literal["none", "batch"]
"""Normalisation of a slice's vector before the sequence model. Batch norm helps with few data."""

SliceReduction = Literal["max", "max_mean"]
"""How the slices become one vector: the maximum, or the maximum and the mean concatenated. The
gradient of the mean reaches every slice, that of the maximum only the strongest slice."""


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


class SliceSequenceClassifier(nn.Module):
    """Volumes (B, Z, Y, X) in [-1, 1] -> logits (B, C) for each group. Paper, section 2.2.

    The backbone gets B*Z one-channel images, `images_per_call` at a time, or all at once (None).
    `sequence` is a name of `networks.sequence_models.SEQUENCE_MODELS`; `hidden` and `layers` are
    the width and depth of this model. `dropout` is the probability that a feature is dropped before
    the heads. Raises InputError for an unknown name.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        hidden: int,
        layers: int = 1,
        dropout: float = 0.0,
        pooling: SlicePooling = "mean",
        feature_norm: FeatureNorm = "none",
        over_slices: SliceReduction = "max",
        images_per_call: int | None = None,
        sequence: str = BILSTM,
        targets: TargetTable = ORGAN_TARGETS,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.pooling = pooling
        self.over_slices = over_slices
        self.images_per_call = images_per_call
        width = backbone.num_features * (math.prod(QUADRANTS) if pooling == "quadrants" else 1)
        self.norm = nn.BatchNorm1d(width) if feature_norm == "batch" else nn.Identity()
        self.sequence = create_sequence_model(sequence, width, hidden, layers)
        self.dropout = nn.Dropout(dropout)
        n_summaries = 2 if over_slices == "max_mean" else 1
        self.heads = GroupHeads(n_summaries * self.sequence.num_features, targets)

    def forward(self, volumes: Tensor) -> dict[str, Tensor]:
        """Logits (B, C) by group of volumes (B, Z, Y, X), in the order of the target table."""
        context = self.sequence(self.slice_features(volumes))  # (B, Z, S)
        summary = context.amax(dim=1)  # (B, S)
        if self.over_slices == "max_mean":
            summary = torch.cat([summary, context.mean(dim=1)], dim=1)  # (B, 2 S)
        logits: dict[str, Tensor] = self.heads(self.dropout(summary))
        return logits

    def slice_features(self, volumes: Tensor) -> Tensor:
        """One vector per slice, (B, Z, F), of volumes (B, Z, Y, X)."""
        B, Z, Y, X = volumes.shape
        images = volumes.reshape(B * Z, 1, Y, X)
        chunks = torch.split(images, self.images_per_call or len(images))
        vectors = torch.cat([self._pool(self.backbone(chunk)) for chunk in chunks])
        normed: Tensor = self.norm(vectors)
        return normed.reshape(B, Z, -1)

    def _pool(self, maps: Tensor) -> Tensor:
        """One vector per image, (N, F), of feature maps (N, C, h, w)."""
        if self.pooling == "mean":
            return maps.mean(dim=(2, 3))
        return functional.adaptive_max_pool2d(maps, QUADRANTS).flatten(1)
