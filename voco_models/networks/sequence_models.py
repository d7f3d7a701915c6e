"""Models over the slices of a volume, by the names that recipes use.

To add one, write a subclass of `SequenceModel` and add a line to `SEQUENCE_MODELS`.
"""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor, nn

from voco_data.errors import InputError


class SequenceModel(nn.Module):
    """Slices in the context of the others: (B, Z, F) -> (B, Z, `num_features`).

    Constructed with the number of features F, the width `hidden` and the number of `layers`.
    """

    num_features: int
    """Features of a slice in the output."""

    @abstractmethod
    def __init__(self, num_features: int, hidden: int, layers: int = 1) -> None:
        super().__init__()

    @abstractmethod
    def forward(self, features: Tensor) -> Tensor:
        """Features in context, (B, Z, `num_features`), of the slices' features (B, Z, F)."""


class BiLstm(SequenceModel):
    """Bidirectional LSTM over slices, as in the paper (section 2.2): (B, Z, F) -> (B, Z, 2 H)."""

    def __init__(self, num_features: int, hidden: int, layers: int = 1) -> None:
        super().__init__(num_features, hidden, layers)
        self.lstm = nn.LSTM(
            num_features, hidden, num_layers=layers, batch_first=True, bidirectional=True
        )
        self.num_features = 2 * hidden

    def forward(self, features: Tensor) -> Tensor:
        """The states of both directions, concatenated, (B, Z, 2 H), of features (B, Z, F)."""
        context: Tensor = self.lstm(features)[0]
        return context


BILSTM = "bilstm"
SEQUENCE_MODELS: dict[str, type[SequenceModel]] = {
    BILSTM: BiLstm,
}
"""Sequence models by the names that recipes use."""


def create_sequence_model(
    name: str, num_features: int, hidden: int, layers: int = 1
) -> SequenceModel:
    """A sequence model by name. Raises InputError for an unknown name."""
    if name not in SEQUENCE_MODELS:
        names = ", ".join(sorted(SEQUENCE_MODELS))
        raise InputError(f"sequence model: expected one of {names}, got {name!r}")
    return SEQUENCE_MODELS[name](num_features, hidden, layers)
