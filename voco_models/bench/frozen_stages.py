"""The row `stages` of `voco bench heads`, trained in fewer operations than the classifier needs.

The maps of a series are always the same, so that the same loss and gradients follow from less:

- The mean and variance of a batch of maps follow from those of its series, computed once.
- Batch norm is a factor and an offset of each channel. They are applied to the weights of the
  projection instead of the maps, and no gradient with respect to a map is computed.

Rounding differs from that of `FrozenFeatureHead.forward`, which predicts.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from voco_models.bench.head_features import HalfArray, split_maps, stack_features
from voco_models.networks import HeadOutput, JoinedStages, OrganQueryHead


class FrozenStages:
    """The forward pass of a training step, from maps of stages to the output of a head."""

    def __init__(
        self, stages: JoinedStages, head: OrganQueryHead, arrays: Sequence[HalfArray]
    ) -> None:
        """`arrays` are the features (Z, K) of all series. The prior of `head` is set."""
        self._maps = FrozenMaps(stages, arrays, head.queries.device)
        self._head = head

    def __call__(self, features: Tensor, chosen: Sequence[int], depths_mm: Tensor) -> HeadOutput:
        """The output for features (B, Z, K) of the series `chosen`, with slices at `depths_mm`.

        `depths_mm` is (B, Z). Updates the running statistics of batch norm.
        """
        joined = self._maps.join(features, chosen).permute(0, 2, 3, 1)  # (B * Z, h, w, F)
        places = joined.reshape(*features.shape[:2], -1, joined.shape[-1])  # (B, Z, P, F)
        output: HeadOutput = self._head(places, depths_mm)
        return output


class FrozenMaps:
    """The joined map of a batch of series with known means and variances."""

    def __init__(
        self, stages: JoinedStages, arrays: Sequence[HalfArray], device: torch.device
    ) -> None:
        self._shapes = stages.shapes
        self._layers = list(map(_layers_of, stages.projections))
        moments: list[list[Tensor]] = [[] for _ in stages.shapes]
        for array in arrays:
            maps = split_maps(stack_features([array]), stages.shapes)
            for of_stage, one in zip(moments, maps, strict=True):
                values = one.double().flatten(0, -2)
                of_stage.append(torch.stack(torch.var_mean(values, dim=0, correction=0)))
        self._moments = [torch.stack(of_stage).to(device) for of_stage in moments]
        """Variances and means (S, 2, F) of the series, of each stage; float64."""

    def join(self, features: Tensor, chosen: Sequence[int]) -> Tensor:
        """The joined map (B * Z, width, h, w) of features (B, Z, K) of the series `chosen`.

        As `JoinedStages.join` in training, with an update of the running statistics.
        """
        maps = split_maps(features.flatten(0, 1), self._shapes)
        projected = [
            _project(one, moments[list(chosen)], norm, projection)
            for one, moments, (norm, projection) in zip(
                maps, self._moments, self._layers, strict=True
            )
        ]
        return sum_enlarged(projected).relu_()


def _layers_of(projection: nn.Module) -> tuple[nn.BatchNorm2d, nn.Conv2d]:
    norm, convolution = projection.children()
    assert isinstance(norm, nn.BatchNorm2d)
    assert isinstance(convolution, nn.Conv2d)
    return norm, convolution


def _project(one: Tensor, moments: Tensor, norm: nn.BatchNorm2d, projection: nn.Conv2d) -> Tensor:
    """Maps (N, width, h, w) of maps (N, h, w, F) of B series, whose `moments` are (B, 2, F)."""
    variances, means = moments.unbind(dim=1)
    mean = means.mean(dim=0)
    variance = (variances + (means - mean).square()).mean(dim=0)
    _update_statistics(norm, mean, variance, one.numel() // one.shape[-1])
    factor = norm.weight * (variance + norm.eps).rsqrt().float()
    weight = projection.weight[:, :, 0, 0]
    assert projection.bias is not None
    bias = projection.bias + weight @ (norm.bias - mean.float() * factor)
    vectors = torch.addmm(bias, one.float().flatten(0, -2), (weight * factor).T)
    return vectors.reshape(*one.shape[:-1], -1).permute(0, 3, 1, 2)


@torch.no_grad()
def _update_statistics(norm: nn.BatchNorm2d, mean: Tensor, variance: Tensor, n_values: int) -> None:
    """Update running statistics as torch does, by mean and variance (F,) of `n_values` values."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert norm.num_batches_tracked is not None
    assert norm.momentum is not None
    unbiased = variance * (n_values / (n_values - 1))
    norm.running_mean.lerp_(mean.float(), norm.momentum)
    norm.running_var.lerp_(unbiased.float(), norm.momentum)
    norm.num_batches_tracked.add_(1)


def sum_enlarged(maps: Sequence[Tensor]) -> Tensor:
    """The sum of maps (N, F, h, w), the finest first, each enlarged to it by its nearest places."""
    sides = [one.shape[2:] for one in maps]
    if all(f % c == 0 for pair in pairwise(sides) for f, c in zip(*pair, strict=True)):
        total = maps[-1]  # sizes that divide each other: the sum so far can be enlarged
        for finer in reversed(maps[:-1]):
            total = finer + functional.interpolate(total, finer.shape[2:], mode="nearest")
        return total
    total = maps[0]
    for coarser in maps[1:]:
        total = total + functional.interpolate(coarser, sides[0], mode="nearest")
    return total
