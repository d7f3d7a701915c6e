"""Heads that see a slice as one vector, and the slices as a sequence or a set."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from voco_data.labels import TargetTable
from voco_models.networks.heads import (
    DEFAULT_OPTIONS,
    FeatureLayout,
    GroupHeads,
    Head,
    HeadOptions,
    HeadOutput,
    flatten_places,
)

TRANSFORMER_HEADS = 4
LONGEST_MM, SHORTEST_MM = 800.0, 10.0
"""Wave lengths of the position encoding."""


class BiLstmHead(Head):
    """Bidirectional LSTM over slices, and the maximum of its states (the paper, section 2.2)."""

    def __init__(
        self, layout: FeatureLayout, targets: TargetTable, options: HeadOptions = DEFAULT_OPTIONS
    ) -> None:
        super().__init__(layout, targets, options)
        hidden = options.hidden
        self.lstm = nn.LSTM(
            layout.width, hidden, num_layers=options.layers, batch_first=True, bidirectional=True
        )
        self.dropout = nn.Dropout(options.dropout)
        self.over_slices = options.over_slices
        n_summaries = 2 if options.over_slices == "max_mean" else 1
        self.heads = GroupHeads(n_summaries * 2 * hidden, targets)

    def forward(
        self,
        features: Tensor,
        depths_mm: Tensor | None = None,  # noqa: ARG002  of other heads
    ) -> HeadOutput:
        """Logits of features (B, Z, P, F)."""
        context: Tensor = self.lstm(flatten_places(features))[0]  # (B, Z, 2 H)
        summary = context.amax(dim=1)
        if self.over_slices == "max_mean":
            summary = torch.cat([summary, context.mean(dim=1)], dim=1)
        return HeadOutput(self.heads(self.dropout(summary)))


class SliceAttention(nn.Module):
    """For each group its own weights of slices, and the weighted mean: (B, Z, F) -> (B, F)."""

    def __init__(
        self, num_features: int, hidden: int, targets: TargetTable, *, gated: bool
    ) -> None:
        """With `gated`, as in Ilse et al. (ICML 2018), equation 9; else as in equation 8."""
        super().__init__()
        self.tanh = nn.Linear(num_features, hidden)
        self.gate = nn.Linear(num_features, hidden) if gated else None
        self.score = nn.Linear(hidden, len(targets), bias=False)
        self._names = targets.names

    def forward(self, values: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Weighted means (B, F) and weights (B, Z), by group, of values (B, Z, F)."""
        hidden = self.tanh(values).tanh()
        if self.gate is not None:
            hidden = hidden * self.gate(values).sigmoid()
        weights = self.score(hidden).float().softmax(dim=1)  # (B, Z, G)
        means = torch.einsum("bzg,bzf->bgf", weights, values.float())
        return (
            dict(zip(self._names, means.unbind(dim=1), strict=True)),
            dict(zip(self._names, weights.unbind(dim=2), strict=True)),
        )


class GruAttentionHead(Head):
    """Bidirectional GRU over slices, then attention over its states, for each group its own."""

    def __init__(
        self, layout: FeatureLayout, targets: TargetTable, options: HeadOptions = DEFAULT_OPTIONS
    ) -> None:
        super().__init__(layout, targets, options)
        hidden = options.hidden
        self.gru = nn.GRU(
            layout.width, hidden, num_layers=options.layers, batch_first=True, bidirectional=True
        )
        self.attention = SliceAttention(2 * hidden, hidden, targets, gated=False)
        self.dropout = nn.Dropout(options.dropout)
        self.heads = GroupHeads(2 * hidden, targets)

    def forward(
        self,
        features: Tensor,
        depths_mm: Tensor | None = None,  # noqa: ARG002  of other heads
    ) -> HeadOutput:
        """Logits of features (B, Z, P, F)."""
        context: Tensor = self.gru(flatten_places(features))[0]
        means, weights = self.attention(context)
        dropped = {name: self.dropout(mean) for name, mean in means.items()}
        return HeadOutput(self.heads.of_each(dropped), weights)


class GatedAttentionHead(Head):
    """Gated attention over slices as a set (Ilse et al., ICML 2018): their order has no effect."""

    def __init__(
        self, layout: FeatureLayout, targets: TargetTable, options: HeadOptions = DEFAULT_OPTIONS
    ) -> None:
        super().__init__(layout, targets, options)
        hidden = options.hidden
        self.embed = nn.Sequential(nn.Linear(layout.width, hidden), nn.ReLU())
        self.attention = SliceAttention(hidden, hidden, targets, gated=True)
        self.dropout = nn.Dropout(options.dropout)
        self.heads = GroupHeads(hidden, targets)

    def forward(
        self,
        features: Tensor,
        depths_mm: Tensor | None = None,  # noqa: ARG002  of other heads
    ) -> HeadOutput:
        """Logits of features (B, Z, P, F)."""
        means, weights = self.attention(self.embed(flatten_places(features)))
        dropped = {name: self.dropout(mean) for name, mean in means.items()}
        return HeadOutput(self.heads.of_each(dropped), weights)


class TransformerHead(Head):
    """Transformer encoder over slices at their depths in mm, then attention for each group."""

    needs_geometry = True

    def __init__(
        self, layout: FeatureLayout, targets: TargetTable, options: HeadOptions = DEFAULT_OPTIONS
    ) -> None:
        super().__init__(layout, targets, options)
        width = options.hidden
        self.embed = nn.Linear(layout.width, width)
        layer = nn.TransformerEncoderLayer(
            width,
            TRANSFORMER_HEADS,
            dim_feedforward=2 * width,
            dropout=options.dropout,
            batch_first=True,
            norm_first=True,
        )
        self.encoder = nn.TransformerEncoder(layer, options.layers, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(width)
        self.attention = SliceAttention(width, width, targets, gated=False)
        self.heads = GroupHeads(width, targets)

    def forward(self, features: Tensor, depths_mm: Tensor | None = None) -> HeadOutput:
        """Logits of features (B, Z, P, F)."""
        if depths_mm is None:
            raise ValueError("this head needs the depths of the slices")
        embedded = self.embed(flatten_places(features))
        embedded = embedded + encode_depths(depths_mm, embedded.shape[-1]).to(embedded.dtype)
        context = self.norm(self.encoder(embedded))
        means, weights = self.attention(context)
        return HeadOutput(self.heads.of_each(means), weights)


def encode_depths(depths_mm: Tensor, width: int) -> Tensor:
    """Sines and cosines (B, Z, width) of depths (B, Z), of wave lengths from 800 to 10 mm.

    The encoding of Vaswani et al. (NeurIPS 2017), section 3.5, of distances instead of numbers.
    """
    n = width // 2
    lengths = torch.logspace(
        math.log10(LONGEST_MM), math.log10(SHORTEST_MM), n, device=depths_mm.device
    )
    angles = depths_mm[..., None] * (2 * math.pi / lengths)
    return torch.cat([angles.sin(), angles.cos()], dim=-1)
