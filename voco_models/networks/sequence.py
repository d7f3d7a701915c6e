"""Sequence models over the slices of a volume."""

from __future__ import annotations

from torch import Tensor, nn


class BiLstm(nn.Module):
    """Bidirectional LSTM over slices, as in the paper (section 2.2): (B, Z, F) -> (B, Z, 2 H)."""

    def __init__(self, num_features: int, hidden: int, layers: int = 1) -> None:
        super().__init__()
        self.lstm = nn.LSTM(
            num_features, hidden, num_layers=layers, batch_first=True, bidirectional=True
        )
        self.num_features = 2 * hidden

    def forward(self, features: Tensor) -> Tensor:
        """Features of every slice in the context of the others."""
        context: Tensor = self.lstm(features)[0]
        return context
