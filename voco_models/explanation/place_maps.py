"""Maps over the places of all slices: attention where a head has it, else Grad-CAM."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from voco_models.explanation.grad_cam import grad_cam
from voco_models.networks import SliceSequenceClassifier

MapKind = Literal["attention", "grad_cam"]


def map_kind(classifier: SliceSequenceClassifier) -> MapKind:
    """`attention` if the head weights places inside a slice, else `grad_cam`."""
    has_places = classifier.features.layout.places != (1, 1)
    return "attention" if classifier.head.keeps_places and has_places else "grad_cam"


def place_maps(
    classifier: SliceSequenceClassifier, inputs: Tensor, depths_mm: Tensor | None
) -> dict[str, Tensor]:
    """Maps (Z, h, w), not negative, of one volume (1, Z, Y, X) in [-1, 1], on the CPU.

    Attention is by group or region, and sums to 1. Grad-CAM is by group, and its maximum is 1.
    The classifier must be in evaluation mode.
    """
    if map_kind(classifier) == "grad_cam":
        return grad_cam(classifier, inputs, depths_mm)
    with torch.no_grad():
        attention = classifier.classify(inputs, depths_mm).attention
    places = classifier.features.layout.places
    return {name: w[0].float().reshape(-1, *places).cpu() for name, w in attention.items()}


def mean_of_models(maps: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The mean of several models' maps, by name, in float64."""
    return {name: torch.stack([one[name].double() for one in maps]).mean(dim=0) for name in maps[0]}


def without_prior(classifier: SliceSequenceClassifier) -> SliceSequenceClassifier:
    """A copy of a classifier with `organ_queries` whose prior is the same everywhere."""
    copied = copy.deepcopy(classifier)
    copied.head.get_buffer("prior").zero_()
    return copied
