"""Classification heads."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from voco_data.labels.table import GRADES, ORGANS


class OrganHeads(nn.Module):
    """One linear head an organ: (B, F) -> logits (B, 3, 3), organs then grades."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.heads = nn.ModuleDict(
            {organ: nn.Linear(num_features, len(GRADES)) for organ in ORGANS}
        )

    def forward(self, features: Tensor) -> Tensor:
        """Logits of every organ, in the order of `voco_data.labels.table.ORGANS`."""
        return torch.stack([self.heads[organ](features) for organ in ORGANS], dim=1)
