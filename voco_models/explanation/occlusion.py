"""Occlusion of slices: how the probability of an injury changes when one slice is hidden.

Occlusion is that of Zeiler and Fergus (ECCV 2014), section 4.2, of slices instead of patches.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from voco_data.errors import InputError
from voco_models.networks import SliceSequenceClassifier

Replacement = Literal["neighbours", "lowest"]
"""What stands in for a hidden slice: the mean of the slices beside it, of which the first and the
last slice have one, or the lower end of the input window, which is black."""
REPLACEMENTS: tuple[Replacement, ...] = get_args(Replacement)
LOWEST = -1.0
"""The lower end of the input window, as networks get it."""


@torch.no_grad()
def slice_effects(
    classifier: SliceSequenceClassifier,
    inputs: Tensor,
    depths_mm: Tensor | None,
    replacement: Replacement,
) -> dict[str, Tensor]:
    """Probability of an injury, less that without slice z: (Z,) by group, on the CPU.

    Positive where the slice speaks for an injury. `inputs` (1, Z, Y, X) are in [-1, 1], and
    `depths_mm` (1, Z) as in `Head.forward`. The classifier must be in evaluation mode; a backbone
    then sees each slice alone, so features of hidden slices are computed once. Raises ValueError
    otherwise, and InputError for a single slice, which has no neighbours.
    """
    if classifier.training:
        raise ValueError("expected a classifier in evaluation mode")
    features = classifier.features(inputs)  # (1, Z, P, F)
    replaced = classifier.features(replace_slices(inputs, replacement))
    whole = injury_probabilities(classifier.head(features, depths_mm).logits)
    without = injury_probabilities(
        classifier.head.replace_each_slice(features, replaced, depths_mm)
    )
    return {name: (whole[name] - without[name]).cpu() for name in whole}


def replace_slices(inputs: Tensor, replacement: Replacement) -> Tensor:
    """What stands in for each slice of (B, Z, Y, X), of the same shape."""
    if replacement == "lowest":
        return torch.full_like(inputs, LOWEST)
    if inputs.shape[1] < 2:
        raise InputError("occlusion by neighbours needs two slices or more; the view has one")
    below = torch.cat([inputs[:, 1:2], inputs[:, :-1]], dim=1)
    above = torch.cat([inputs[:, 1:], inputs[:, -2:-1]], dim=1)
    return (below + above) / 2


def injury_probabilities(logits: dict[str, Tensor]) -> dict[str, Tensor]:
    """1 - p(healthy), (B,) by group, of logits (B, C)."""
    return {name: 1 - z.float().softmax(dim=-1)[:, 0] for name, z in logits.items()}
