"""Features of slices: a 2D backbone on each slice, then one vector for each place of the slice."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from voco_data.errors import InputError
from voco_models.networks.encoder import Backbone
from voco_models.networks.heads import FeatureLayout, FeatureNorm
from voco_models.networks.recompute import Recompute

SlicePooling = Literal["mean", "quadrants", "stages"]
"""Feature maps to the vectors of a slice: the mean of the last map; its maximum in each quadrant;
or, for each place of the map of stride `PLACE_STRIDE`, the sum of all maps that are not finer."""

QUADRANTS = (2, 2)
PLACE_STRIDE = 4
"""Pixels of a slice between two places of the pooling `stages`."""


class SliceFeatures(nn.Module):
    """Volumes (B, Z, Y, X) -> features (B, Z, P, F), of P places in each slice.

    The backbone gets B * Z one-channel images, `images_per_call` at a time, or all at once (None).
    In training, batch norm normalises the images of a call together. `width` is the number of
    features F of the pooling `stages`. With `recompute`, fewer activations are kept. The backward
    pass then updates the statistics of batch norm too; see `StatisticsGuard`. Raises InputError for
    `blocks` and a backbone that cannot do it.
    """

    def __init__(
        self,
        backbone: Backbone,
        size_px: int,
        *,
        pooling: SlicePooling = "mean",
        norm: FeatureNorm = "none",
        width: int = 64,
        images_per_call: int | None = None,
        recompute: Recompute = "off",
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.pooling = pooling
        self.images_per_call = images_per_call
        self.recompute = recompute
        if recompute == "blocks":
            backbone.set_recompute(True)
        if pooling == "stages":
            self.stages = JoinedStages(backbone, size_px, width)
            self.layout = FeatureLayout(width, self.stages.places)
            self.norm: nn.Module = nn.Identity()  # the stages have their own
            return
        places = QUADRANTS if pooling == "quadrants" else (1, 1)
        self.layout = FeatureLayout(backbone.num_features, places)
        self.norm = nn.BatchNorm1d(self.layout.width) if norm == "batch" else nn.Identity()

    def forward(self, volumes: Tensor) -> Tensor:
        """Features (B, Z, P, F) of volumes (B, Z, Y, X) in [-1, 1]."""
        B, Z, Y, X = volumes.shape
        images = volumes.reshape(B * Z, 1, Y, X)
        limit = self.images_per_call
        chunks = (images,) if limit is None else torch.split(images, limit)
        vectors = torch.cat([self._call(chunk) for chunk in chunks])
        if self.pooling == "stages":
            return vectors.reshape(B, Z, -1, self.layout.channels)
        normed: Tensor = self.norm(vectors)
        return normed.reshape(B, Z, self.layout.channels, -1).transpose(2, 3)

    def _call(self, images: Tensor) -> Tensor:
        """The vectors of N images; of `recompute=calls`, only the images are kept for backward."""
        if self.recompute != "calls" or not torch.is_grad_enabled():
            return self._pool(images)
        vectors: Tensor = checkpoint(self._pool, images, use_reentrant=False)
        return vectors

    def _pool(self, images: Tensor) -> Tensor:
        """The vectors of N images: (N, P, F) of stages, else (N, F * P), feature by feature."""
        if self.pooling == "stages":
            joined: Tensor = self.stages(self.backbone.feature_maps(images))
            return joined.permute(0, 2, 3, 1).flatten(1, 2)  # no copy: maps are channels-last
        return pool_map(self.backbone(images), self.pooling)


def pool_map(maps: Tensor, pooling: SlicePooling) -> Tensor:
    """The vectors (N, F * P) of last feature maps (N, F, h, w), feature by feature.

    `pooling` is `mean` or `quadrants`.
    """
    if pooling == "mean":
        mean: Tensor = maps.mean(dim=(2, 3))
        return mean
    return functional.adaptive_max_pool2d(maps, QUADRANTS).flatten(1)


class JoinedStages(nn.Module):
    """Feature maps of all stages from one stride on, as one map (N, width, h, w).

    Each map is normalised, projected to `width` features and enlarged; their sum is rectified.
    `stride_px` is the least distance of two places, in pixels of a slice.
    """

    def __init__(
        self, backbone: Backbone, size_px: int, width: int, *, stride_px: int = PLACE_STRIDE
    ) -> None:
        super().__init__()
        shapes = backbone.feature_map_shapes(size_px)
        fine = math.ceil(size_px / stride_px)
        first = next((i for i, s in enumerate(shapes) if max(s[1:]) <= fine), None)
        if first is None:
            raise InputError(
                f"recipe: pooling stages needs feature maps of {fine} x {fine} places or fewer, "
                f"backbone {backbone.name} has {shapes}; use a larger view"
            )
        self.first = first
        """The finest stage that is used."""
        used = shapes[first:]
        self.shapes = used
        """(F, h, w) of the maps that are used."""
        self.places: tuple[int, int] = used[0][1], used[0][2]
        self.projections = nn.ModuleList(
            nn.Sequential(nn.BatchNorm2d(channels), nn.Conv2d(channels, width, 1))
            for channels, _, _ in used
        )

    def forward(self, maps: list[Tensor]) -> Tensor:
        """The joined map (N, width, h, w) of the maps of all stages, the finest first."""
        return self.join(maps[self.first :])

    def join(self, used: Sequence[Tensor]) -> Tensor:
        """As `forward`, of the maps that are used, (N, *shape) each of `shapes`."""
        maps = [projection(one) for one, projection in zip(used, self.projections, strict=True)]
        joined: Tensor = maps[0]  # the finest, which has all places
        for coarser in maps[1:]:
            joined = joined + functional.interpolate(coarser, self.places, mode="nearest")
        return joined.relu()
