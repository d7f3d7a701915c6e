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
VALUES_PER_CALL = 2**24
"""Largest number of features in one call of the head: it bounds the memory."""


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
    n = inputs.shape[1]
    features = classifier.features(inputs)  # (1, Z, P, F)
    replaced = classifier.features(replace_slices(inputs, replacement))
    whole = injury_probabilities(classifier.head(features, depths_mm).logits)
    parts: dict[str, list[Tensor]] = {name: [] for name in whole}
    per_call = max(1, VALUES_PER_CALL // features.numel())
    for start in range(0, n, per_call):
        hidden = torch.arange(start, min(n, start + per_call), device=features.device)
        variants = features.expand(len(hidden), -1, -1, -1).clone()
        variants[torch.arange(len(hidden), device=features.device), hidden] = replaced[0, hidden]
        depths = None if depths_mm is None else depths_mm.expand(len(hidden), -1)
        found = injury_probabilities(classifier.head(variants, depths).logits)
        for name, without in found.items():
            parts[name].append((whole[name] - without).cpu())
    return {name: torch.cat(values) for name, values in parts.items()}


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
