"""Embeddings of images: the interfaces `Backbone` and `Encoder`, and the encoder of slices.

Objectives depend on `Encoder` only. `networks.registry` builds encoders by name.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from voco_data.errors import InputError

EmbeddingLevel = Literal["volume", "slice"]
"""One embedding per crop column (features averaged over slices first), or one per slice."""
FeatureKind = Literal["map", "gap"]
"""The whole feature map flattened (C * h * w), or its average (C)."""


class Backbone(nn.Module):
    """A network without its pooling and classifier: images (B, C, ...) to maps (B, F, ...).

    Fine-tuning starts from the backbone of a pretraining run. `networks.registry` can build it
    again from `name` and `in_chans`.
    """

    def __init__(self, name: str, in_chans: int, num_features: int) -> None:
        super().__init__()
        self.name = name
        """Name in a recipe."""
        self.in_chans = in_chans
        self.num_features = num_features
        """Channels F of the feature map."""

    @abstractmethod
    def forward(self, images: Tensor) -> Tensor:
        """Feature map (B, F, h, w) of float images (B, C, H, W); (B, F, d, h, w) of (B, C, D, H, W)
        where the network is three-dimensional.
        """

    def feature_maps(self, images: Tensor) -> list[Tensor]:
        """Feature maps of all stages, the finest first; the last one is that of `forward`.

        A network that does not show its stages has the last one only, as here.
        """
        return [self(images)]

    memory_format: torch.memory_format = torch.contiguous_format
    """Of the weights. Another one gives other rounding errors."""

    def check_size(self, size_px: tuple[int, ...]) -> None:
        """Raise InputError if the network cannot take images of this size; here it takes any.

        `size_px` is (height, width), or (slices, height, width) where the network is
        three-dimensional.
        """

    def plain_weights(self) -> dict[str, Tensor]:
        """Weights by the names of the library that publishes the network, for export."""
        return dict(self.state_dict())

    def unused_parameters(self) -> list[nn.Parameter]:
        """Parameters that the feature map does not depend on, such as those of a classifier."""
        return []

    def set_recompute(self, enabled: bool) -> None:
        """Compute activations again in the backward pass, or keep them, which is the default.

        The statistics of batch norm may then change in the backward pass too. Raises InputError for
        a network that cannot do it, as here.
        """
        if enabled:
            raise InputError(
                f"backbone {self.name}: it cannot recompute its activations; turn recompute off"
            )

    @torch.no_grad()
    def feature_shape(self, size_px: int | tuple[int, ...]) -> tuple[int, ...]:
        """(F, h, w) of the feature map of images of `size_px` = (height, width) in pixels.

        A single number is the side of a square. (F, d, h, w) of `size_px` = (slices, height, width)
        where the network is three-dimensional. Runs one forward pass. Raises InputError if the
        network cannot take this size, or if the output is no feature map.
        """
        size = (size_px, size_px) if isinstance(size_px, int) else size_px
        self.check_size(size)
        shape: tuple[int, ...] = self._probe(size, self)[0]
        if len(shape) != len(size) + 2 or shape[1] != self.num_features:
            raise InputError(
                f"backbone {self.name}: expected a CNN with features (B, {self.num_features}, h, w)"
                f", got {shape}; choose a convolutional timm model"
            )
        return shape[1:]

    @torch.no_grad()
    def feature_map_shapes(self, size_px: int) -> list[tuple[int, ...]]:
        """(F, h, w) of each of `feature_maps`, of square images. Runs one forward pass."""
        self.check_size((size_px, size_px))
        shapes = self._probe((size_px, size_px), self.feature_maps)
        return [shape[1:] for shape in shapes]

    def _probe(
        self, size: tuple[int, ...], function: Callable[[Tensor], Any]
    ) -> list[tuple[int, ...]]:
        """The shapes of what a function makes of an image, in evaluation mode."""
        probe = torch.zeros(1, self.in_chans, *size, device=next(self.parameters()).device)
        was_training = self.training
        self.eval()
        try:
            found = function(probe)
        finally:
            self.train(was_training)
        return [tuple(one.shape) for one in ([found] if isinstance(found, Tensor) else found)]


class Projector(nn.Module):
    """Linear-BN-ReLU-Linear-BN-ReLU-Linear over the last axis, before the cosines of the losses.

    `forward` maps (..., `in_features`) to (..., `out_features`). Batch norm averages over all
    leading axes together (B volumes x N crops), never over the crops of one volume alone.
    """

    def __init__(self, in_features: int, *, width: int = 2048, out_features: int = 2048) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(in_features, width, bias=False),  # batch norm adds a bias
            nn.BatchNorm1d(width),
            nn.ReLU(inplace=True),
            nn.Linear(width, width, bias=False),
            nn.BatchNorm1d(width),
            nn.ReLU(inplace=True),
            nn.Linear(width, out_features),
        )

    def forward(self, features: Tensor) -> Tensor:
        """Embeddings (..., out_features), of any length, of features (..., in_features)."""
        rows: Tensor = self.layers(features.flatten(end_dim=-2))
        return rows.reshape(*features.shape[:-1], -1)


@dataclass(frozen=True, slots=True)
class EncoderOptions:
    """Settings of an encoder, without its backbone."""

    encode_px: int | None = None
    """Side in pixels that crops are resized to before the backbone; None does not resize."""
    level: EmbeddingLevel = "volume"
    feature: FeatureKind = "map"
    projector_width: int = 2048
    embedding: int = 2048
    """Length of an embedding."""


DEFAULT_OPTIONS = EncoderOptions()


class Encoder(nn.Module):
    """Embeddings of crops. An objective trains an encoder.

    A subclass is constructed from a backbone, the size (h, w) of a crop in pixels, and options.
    """

    backbone: Backbone
    """The part that is kept after pretraining."""
    projector: nn.Module
    """The part that is used in pretraining only."""

    @abstractmethod
    def __init__(
        self, backbone: Backbone, crop_px: tuple[int, int], options: EncoderOptions
    ) -> None:
        super().__init__()

    def check_slices(self, slices: int) -> None:
        """Raise InputError if crops of so many slices have no embedding; here all have."""

    @abstractmethod
    def forward(self, crops: Tensor) -> Tensor:
        """Embeddings (B, N, D), of any length, of normalised crops (B, N, Z, h, w).

        (B, Z, N, D) at level `slice`.
        """


class SliceEncoder(Encoder):
    """A 2D backbone on every slice, the average over slices, and a projector.

    At level `slice` every slice has an embedding of its own, without the average.
    """

    def __init__(
        self,
        backbone: Backbone,
        crop_px: tuple[int, int],
        options: EncoderOptions = DEFAULT_OPTIONS,
    ) -> None:
        super().__init__(backbone, crop_px, options)
        self.backbone = backbone
        self._resize = None if options.encode_px is None else (options.encode_px,) * 2
        self._level = options.level
        self._feature = options.feature
        channels, h, w = backbone.feature_shape(self._resize or crop_px)
        self.projector = Projector(
            channels * h * w if options.feature == "map" else channels,
            width=options.projector_width,
            out_features=options.embedding,
        )

    def forward(self, crops: Tensor) -> Tensor:
        """Embeddings (B, N, D) of crops (B, N, Z, h, w); (B, Z, N, D) at level `slice`."""
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
