"""Segmentation in 3D: the objective of a network that is compared with 3D-to-2D ones.

Input, augmentation and loss are those of `voco project`. The targets are the organs in 3D, whose
projections are the maps that `voco project` learns.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from voco_models.data import (
    Batch,
    InputWindow,
    ProjectionAugmentation,
    X,
    Y,
    centre,
    step_seed,
)
from voco_models.objectives import LABELLED, dice_bce_loss
from voco_models.training import Objective

ORGAN_VOLUMES = "organ_volumes"
"""Name in a batch of the organs in 3D, bool (B, C, Z, Y, X)."""

Maps = tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]


class VolumeSegmentation(Objective):
    """Organs in 3D: (batch Dice + binary cross-entropy) / 2 over voxels."""

    def __init__(
        self, network: nn.Module, augmentation: ProjectionAugmentation, window: InputWindow
    ) -> None:
        super().__init__()
        self.network = network
        self.augmentation = augmentation
        self.window = window

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The scalar `loss`. Draws are those of `voco project` for the same batch."""
        draws = self.augmentation.draw(
            [torch.Generator().manual_seed(step_seed(batch.seed, i)) for i in batch.draw_keys()]
        )
        logits = self._logits(draws.move_volumes(self.window.to_unit(batch.volumes)))
        targets = draws.move_labels(batch.targets[ORGAN_VOLUMES].float())
        # The loss of maps, for rows of voxels in place of pixels.
        loss = dice_bce_loss(logits.flatten(2, 3), targets.flatten(2, 3), batch.targets[LABELLED])
        return {"loss": loss}

    @torch.inference_mode()
    def predict_maps(self, volume: Tensor) -> Maps:
        """Coronal (C, Z, X) and sagittal (C, Z, Y) maps of stored voxels (Z, Y, X), float64.

        A map has the highest probability along its line.
        """
        (found,) = self._logits(self.window.to_unit(volume[None])).float().sigmoid().double()
        return found.amax(dim=Y).cpu().numpy(), found.amax(dim=X).cpu().numpy()

    def _logits(self, unit: Tensor) -> Tensor:
        """Logits (B, C, Z, Y, X) of volumes (B, Z, Y, X) with values in 0..1."""
        logits: Tensor = self.network(centre(unit)[:, None])
        return logits
