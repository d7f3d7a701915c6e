"""Heads of the classifier: a linear layer for each target group."""

from __future__ import annotations

from torch import Tensor, nn

from voco_data.labels import TargetTable


class GroupHeads(nn.Module):
    """One linear layer a target group: (B, F) -> logits (B, C) for each group of C classes."""

    def __init__(self, num_features: int, targets: TargetTable) -> None:
        super().__init__()
        self.heads = nn.ModuleDict(
            {group.name: nn.Linear(num_features, len(group.classes)) for group in targets}
        )

    def forward(self, features: Tensor) -> dict[str, Tensor]:
        """Logits of every group, in the order of the target table."""
        return {name: head(features) for name, head in self.heads.items()}
