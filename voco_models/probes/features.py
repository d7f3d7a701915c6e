"""Frozen features of crop columns and of slices."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from voco_models.data import InputWindow, normalise
from voco_models.networks import Backbone, takes_volumes
from voco_models.probes.volumes import ProbedVolume

PIXELS_PER_CALL = 256 * 64 * 64
"""Pixels of the images of one call of a backbone: 256 crops of 64 px."""


@dataclass(frozen=True, slots=True)
class Question:
    """A window of one volume: the same pixels [y, y + h) x [x, x + w) of several slices."""

    volume: int
    """Index of the volume."""
    slices: tuple[int, ...]
    corner: tuple[int, int]
    """(y, x) of the first pixel."""
    size: tuple[int, int]
    """(h, w) in pixels."""


def cut(volumes: Sequence[ProbedVolume], questions: Sequence[Question]) -> Iterator[Tensor]:
    """Network inputs (questions x slices, 1, h, w) of some questions at a time, in order.

    All questions have equally many slices and one size.
    """
    if not questions:
        return
    h, w = questions[0].size
    at_once = max(1, PIXELS_PER_CALL // (h * w * len(questions[0].slices)))
    for first in range(0, len(questions), at_once):
        images = []
        for question in questions[first : first + at_once]:
            volume = volumes[question.volume]
            y, x = question.corner
            window = volume.voxels[list(question.slices), y : y + h, x : x + w]
            images.append(normalise(window, InputWindow(volume.low, volume.high)))
        yield torch.cat(images)[:, None]


def _column_maps(backbone: Backbone, images: Tensor, n_slices: int) -> Tensor:
    """Maps (questions, F, h, w), averaged over the slices, of images (questions x slices, 1, h, w).

    A 3D backbone is called on the `n_slices` slices of a question together.
    """
    if takes_volumes(backbone.name):
        volumes = images.reshape(-1, 1, n_slices, *images.shape[2:])
        maps: Tensor = backbone(volumes).float()  # (questions, F, d, h, w)
        return maps.mean(dim=2)
    maps = backbone(images.contiguous(memory_format=torch.channels_last)).float()
    return maps.reshape(-1, n_slices, *maps.shape[1:]).mean(dim=1)


@torch.no_grad()
def run_all(
    backbone: Backbone, volumes: Sequence[ProbedVolume], questions: Sequence[Question]
) -> None:
    """Call `backbone` on the images of all questions, for its batch norm statistics."""
    device = next(backbone.parameters()).device
    for images in cut(volumes, questions):
        _column_maps(backbone, images.to(device), len(questions[0].slices))


@torch.no_grad()
def extract(
    backbone: Backbone, volumes: Sequence[ProbedVolume], questions: Sequence[Question]
) -> tuple[Tensor, Tensor]:
    """Features of each question, averaged over its slices, on the CPU.

    Returns the flattened maps, float32 (Q, F * h * w), and their means over the plane, (Q, F).
    The backbone should be in eval mode.
    """
    device = next(backbone.parameters()).device
    maps, means = [], []
    for images in cut(volumes, questions):
        columns = _column_maps(backbone, images.to(device), len(questions[0].slices))
        maps.append(columns.flatten(1).cpu())
        means.append(columns.mean(dim=(2, 3)).cpu())
    return torch.cat(maps), torch.cat(means)
