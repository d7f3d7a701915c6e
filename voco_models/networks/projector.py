"""The one projector, between a backbone's features and the space where cosines are compared."""

from __future__ import annotations

from torch import Tensor, nn


class Projector(nn.Module):
    """Linear-BN-ReLU-Linear-BN-ReLU-Linear over the last axis.

    `forward` maps (..., `in_features`) to (..., `out_features`). All leading axes together are the
    rows that batch norm averages over (B volumes x N crops), never the crops of one volume alone.
    """

    def __init__(self, in_features: int, *, width: int = 2048, out_features: int = 2048) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(in_features, width, bias=False),  # batch norm brings the bias
            nn.BatchNorm1d(width),
            nn.ReLU(inplace=True),
            nn.Linear(width, width, bias=False),
            nn.BatchNorm1d(width),
            nn.ReLU(inplace=True),
            nn.Linear(width, out_features),
        )

    def forward(self, features: Tensor) -> Tensor:
        """Embeddings (..., out_features), not normalised, of features (..., in_features)."""
        rows: Tensor = self.layers(features.flatten(end_dim=-2))
        return rows.reshape(*features.shape[:-1], -1)
