"""Crops to embeddings: backbone, average over slices, projector."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn
from torch.nn import functional

from voco_models.networks.backbones import Backbone
from voco_models.networks.projector import Projector

Level = Literal["volume", "slice"]
"""One embedding a crop column (features averaged over slices first), or one a slice."""
Feature = Literal["map", "gap"]
"""The whole feature map flattened (C * h * w), or its average (C)."""


class Encoder(nn.Module):
    """Embeddings (B, N, D) of normalised crops (B, N, Z, h, w); (B, Z, N, D) at level `slice`."""

    def __init__(
        self,
        backbone: Backbone,
        crop_px: tuple[int, int],
        *,
        encode_px: int | None = None,
        level: Level = "volume",
        feature: Feature = "map",
        projector_width: int = 2048,
        embedding: int = 2048,
    ) -> None:
        """`encode_px` is the side crops of `crop_px` are resized to first; None leaves them."""
        super().__init__()
        self.backbone = backbone
        self._resize = None if encode_px is None else (encode_px, encode_px)
        self._level = level
        self._feature = feature
        channels, h, w = backbone.feature_shape(self._resize or crop_px)
        self.projector = Projector(
            channels * h * w if feature == "map" else channels,
            width=projector_width,
            out_features=embedding,
        )

    def forward(self, crops: Tensor) -> Tensor:
        """Embeddings, not normalised; see the class."""
        images = crops.flatten(end_dim=2)[:, None]  # (B*N*Z, 1, h, w)
        if self._resize is not None:
            images = functional.interpolate(
                images, self._resize, mode="bilinear", antialias=True, align_corners=False
            )
        maps = self.backbone(images)  # (B*N*Z, C, h', w')
        features = maps.flatten(1) if self._feature == "map" else maps.mean(dim=(2, 3))
        features = features.unflatten(0, crops.shape[:3])  # (B, N, Z, F)
        features = features.mean(dim=2) if self._level == "volume" else features.transpose(1, 2)
        embeddings: Tensor = self.projector(features)
        return embeddings
