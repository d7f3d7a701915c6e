"""Second images as targets of a 3D-to-2D network: of which series and planes, and their tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from voco_data.errors import InputError
from voco_data.paired_images import PairedImages, read_paired_images
from voco_data.store import Store
from voco_models.networks import Plane
from voco_models.objectives import PLANES, map_name, valid_name

NO_IMAGE = "no image"
"""Reason for which a series is left out."""


@dataclass(frozen=True, slots=True)
class ImageTargets:
    """The images of the series that have some."""

    kept: list[int]
    """Positions of these series among those that were asked for."""
    planes: tuple[Plane, ...]
    """Planes of which at least one series has an image."""
    targets: dict[str, Tensor]
    """By name, one row for each series of `kept`, of `planes` only."""
    notes: tuple[str, ...]
    record: dict[str, Any]
    """What a run records: the kinds of images, and how many series have one in each plane."""


def check_images(images: str | Path | None, target: str) -> None:
    """Raise InputError unless images are given for the target `image`, and for no other."""
    if target == "image" and images is None:
        raise InputError("target image: give --images, a folder or a table; see docs/projection.md")
    if target != "image" and images is not None:
        raise InputError(f"--images is for --set target=image, but the target is {target}")


def read_image_targets(
    images: str | Path, stores: Sequence[Store], positions: Sequence[tuple[int, int]]
) -> ImageTargets:
    """The images of series, each given by the position of its store and its row.

    Raises InputError for images that cannot be used, and if none of the series has one.
    """
    paired = read_paired_images(images, stores, positions)
    has_image = paired.has_image
    kept = np.flatnonzero(np.any([has_image[plane] for plane in PLANES], axis=0)).tolist()
    if not kept:
        raise InputError(
            f"images {images}: none of the {len(positions)} series that the run may learn from has "
            "an image"
        )
    planes = tuple(plane for plane in PLANES if has_image[plane].any())
    return ImageTargets(
        kept=kept,
        planes=planes,
        targets=_to_targets(paired, planes, kept),
        notes=tuple(_describe(paired, planes)),
        record={"kinds": paired.kinds}
        | {str(plane): int(has_image[plane].sum()) for plane in PLANES},
    )


def _to_targets(
    paired: PairedImages, planes: Sequence[Plane], kept: Sequence[int]
) -> dict[str, Tensor]:
    targets = {}
    for plane in planes:
        targets[map_name(plane)] = torch.from_numpy(paired.values[plane][kept])
        targets[valid_name(plane)] = torch.from_numpy(paired.is_valid[plane][kept])
    return targets


def _describe(paired: PairedImages, planes: Sequence[Plane]) -> list[str]:
    notes = [
        f"no series has a {plane} image: the {plane} network keeps its first weights"
        for plane in PLANES
        if plane not in planes
    ]
    if paired.unknown:
        notes.append(f"{paired.unknown} images are of series that the stores do not hold")
    return notes
