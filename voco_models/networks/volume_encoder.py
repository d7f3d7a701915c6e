"""Embeddings of crops by a 3D backbone, which sees all slices of a crop at once."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from voco_data.errors import InputError
from voco_models.networks.encoder import (
    DEFAULT_OPTIONS,
    Backbone,
    Encoder,
    EncoderOptions,
    Projector,
)

PROBE_SLICES = 32
"""Slices of the crop that the size of the feature map in the plane is read from.

This size does not depend on the slices. Every 3D backbone takes 32 of them.
"""


class VolumeEncoder(Encoder):
    """A 3D backbone on every crop, the average of its map over the depth, and a projector.

    With the feature `map`, the input of the projector is the flattened map (F, h', w'), with `gap`
    its average. `encode_px` resizes crops in the plane only. There is no level `slice`.
    """

    def __init__(
        self,
        backbone: Backbone,
        crop_px: tuple[int, int],
        options: EncoderOptions = DEFAULT_OPTIONS,
    ) -> None:
        super().__init__(backbone, crop_px, options)
        if options.level != "volume":
            raise InputError(
                f"recipe: level = {options.level} needs an embedding for each slice, and backbone "
                f"{backbone.name} gives one for all slices; set voco.level=volume"
            )
        self.backbone = backbone
        self._resize = None if options.encode_px is None else (options.encode_px,) * 2
        self._plane = self._resize or crop_px
        self._feature = options.feature
        channels, _, h, w = backbone.feature_shape((PROBE_SLICES, *self._plane))
        self.projector = Projector(
            channels * h * w if options.feature == "map" else channels,
            width=options.projector_width,
            out_features=options.embedding,
        )

    def check_slices(self, slices: int) -> None:
        """Raise InputError if the backbone cannot take crops of so many slices."""
        self.backbone.check_size((slices, *self._plane))

    def forward(self, crops: Tensor) -> Tensor:
        """Embeddings (B, N, D) of crops (B, N, Z, h, w)."""
        images = crops.flatten(end_dim=1)  # (B*N, Z, h, w)
        if self._resize is not None:  # each slice, as the 2D encoder does
            images = functional.interpolate(
                images, self._resize, mode="bilinear", antialias=True, align_corners=False
            )
        maps = self.backbone(images[:, None]).mean(dim=2)  # (B*N, F, h', w')
        features = maps.flatten(1) if self._feature == "map" else maps.mean(dim=(2, 3))
        embeddings: Tensor = self.projector(features.unflatten(0, crops.shape[:2]))
        return embeddings
