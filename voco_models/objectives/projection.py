"""The objectives of 3D-to-2D networks: organs in maps, or a second image of the same body.

There is a network for each plane. The coronal one collapses Y and the sagittal one X, so a map is
(Z, X) or (Z, Y).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from voco_models.data import (
    Batch,
    InputWindow,
    ProjectionAugmentation,
    ProjectionDraws,
    X,
    Y,
    Z,
    centre,
    step_seed,
)
from voco_models.networks import Plane, to_projection_axes
from voco_models.objectives.reconstruction import negative_ssim_loss
from voco_models.objectives.segmentation import dice_bce_loss
from voco_models.training import Objective

PLANES: tuple[Plane, ...] = ("coronal", "sagittal")
MAP_AXES: dict[Plane, tuple[int, int]] = {"coronal": (Z, X), "sagittal": (Z, Y)}
"""Axes of volumes (B, Z, Y, X) that a map has."""
LABELLED = "labelled"
"""Name in a batch of the organs that a mask knows, bool (B, C)."""
Pretext = Literal["mean", "maximum", "depth"]
PRETEXTS: tuple[Pretext, ...] = get_args(Pretext)
WHOLLY_VALID = 1 - 1e-3
"""Least share of valid pixels in an interpolated one that counts as valid: 1 but for rounding."""


def map_name(plane: Plane) -> str:
    """Name in a batch of the targets of a plane, (B, C, Z, X) or (B, C, Z, Y)."""
    return f"map_{plane}"


def valid_name(plane: Plane) -> str:
    """Name in a batch of the pixels that the image of a plane shows, bool, of the map's shape."""
    return f"valid_{plane}"


class ProjectionObjective(Objective):
    """What the networks of both planes have in common: the input, and the mean of two losses.

    `planes` are those that are trained. The network of another plane is left as it is.
    """

    def __init__(
        self,
        networks: Mapping[Plane, nn.Module],
        augmentation: ProjectionAugmentation,
        window: InputWindow,
        *,
        planes: Sequence[Plane] = PLANES,
    ) -> None:
        super().__init__()
        self.networks = nn.ModuleDict({str(plane): network for plane, network in networks.items()})
        self.augmentation = augmentation
        self.window = window
        self.planes = tuple(planes)
        for plane in PLANES:
            self.networks[plane].requires_grad_(plane in self.planes)

    def predict(self, volumes: Tensor) -> dict[Plane, Tensor]:
        """Logits of both planes for stored voxels (B, Z, Y, X), without augmentation."""
        return self._logits(self.window.to_unit(volumes))

    def _logits(self, unit: Tensor, planes: Sequence[Plane] = PLANES) -> dict[Plane, Tensor]:
        """Logits (B, C, Z, X) and (B, C, Z, Y) of volumes (B, Z, Y, X) with values in 0..1."""
        inputs = centre(unit)[:, None]
        return {plane: self.networks[plane](to_projection_axes(inputs, plane)) for plane in planes}

    def _augment(self, batch: Batch) -> tuple[Tensor, ProjectionDraws]:
        """Volumes with values in 0..1 after augmentation, and how they were moved."""
        # A generator for each volume: draws do not depend on the other volumes of the batch.
        draws = self.augmentation.draw(
            [torch.Generator().manual_seed(step_seed(batch.seed, i)) for i in batch.draw_keys()]
        )
        return draws.move_volumes(self.window.to_unit(batch.volumes)), draws


class SegmentationObjective(ProjectionObjective):
    """Organs in both maps: (batch Dice + binary cross-entropy) / 2.

    The targets of a batch are the maps of the organs, by `map_name`, and `LABELLED`.
    """

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Scalars: `loss`, and the loss of each plane under its name."""
        unit, draws = self._augment(batch)
        losses = {
            plane: dice_bce_loss(
                logits,
                draws.move_maps(batch.targets[map_name(plane)].float(), MAP_AXES[plane]),
                batch.targets[LABELLED],
            )
            for plane, logits in self._logits(unit, self.planes).items()
        }
        return _with_mean(losses)


class ReconstructionObjective(ProjectionObjective):
    """A second image of the same body, from its volume: the negative structural similarity.

    With a `pretext`, the image is computed from the volume. Without, the targets of a batch are
    images in 0..1, by `map_name`, and the pixels that they show, by `valid_name`; only these are in
    the loss. With `shuffled`, a volume gets the image of another volume of its batch: a control, in
    which there is nothing to learn but the mean image.
    """

    def __init__(
        self,
        networks: Mapping[Plane, nn.Module],
        augmentation: ProjectionAugmentation,
        window: InputWindow,
        pretext: Pretext | None = None,
        *,
        shuffled: bool = False,
        planes: Sequence[Plane] = PLANES,
    ) -> None:
        super().__init__(networks, augmentation, window, planes=planes)
        self.pretext = pretext
        self.shuffled = shuffled

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Scalars: `loss`, and the loss of each plane under its name."""
        unit, draws = self._augment(batch)
        losses: dict[Plane, Tensor] = {}
        for plane, logits in self._logits(unit, self.planes).items():
            if self.pretext is None:
                images, valid = _move_images(batch, draws, plane)
            else:
                images, valid = pretext_image(unit, plane, self.pretext), None
            if self.shuffled:
                images = images.roll(1, dims=0)
                valid = None if valid is None else valid.roll(1, dims=0)
            losses[plane] = negative_ssim_loss(logits, images, valid)
        return _with_mean(losses)


def _move_images(batch: Batch, draws: ProjectionDraws, plane: Plane) -> tuple[Tensor, Tensor]:
    """The images of a batch and their valid pixels, moved as the volumes.

    What comes in from beyond an image is not valid, nor are pixels between valid and other ones.
    """
    images, valid = (batch.targets[name(plane)].float() for name in (map_name, valid_name))
    moved = draws.move_maps(torch.cat([images, valid], dim=1), MAP_AXES[plane])
    return moved[:, :1], moved[:, 1:] > WHOLLY_VALID


def pretext_image(unit: Tensor, plane: Plane, pretext: Pretext) -> Tensor:
    """An image (B, 1, Z, X) or (B, 1, Z, Y) in 0..1 of volumes (B, Z, Y, X) with values in 0..1.

    mean     the mean along the collapsed axis
    maximum  the maximum along it
    depth    where the matter along it lies: its mean place from 0 to 1, weighted with the values;
             0 where there is none
    """
    axis = Y if plane == "coronal" else X
    if pretext == "mean":
        return unit.mean(dim=axis)[:, None]
    if pretext == "maximum":
        return unit.amax(dim=axis)[:, None]
    size = unit.shape[axis]
    places = (torch.arange(size, device=unit.device, dtype=unit.dtype) + 0.5) / size
    shape = [1] * unit.ndim
    shape[axis] = size
    sums = unit.sum(dim=axis)
    centroid = (unit * places.reshape(shape)).sum(dim=axis) / sums.clamp(min=1e-6)
    return centroid.clamp(0, 1)[:, None]


def _with_mean(losses: Mapping[Plane, Tensor]) -> dict[str, Tensor]:
    mean = torch.stack(list(losses.values())).mean()
    return {"loss": mean} | {str(plane): loss for plane, loss in losses.items()}
