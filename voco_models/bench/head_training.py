"""Training of one head on cached features: the loss, optimiser and schedule of a recipe.

There is no augmentation, mixup or moving average: the features of a volume are always the same.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from voco_data.errors import VocoError
from voco_models.bench.frozen_stages import FrozenStages
from voco_models.bench.head_features import (
    CachedFeatures,
    HalfArray,
    Kind,
    join_stages,
    split_maps,
    stack_features,
)
from voco_models.data import BatchOrder, step_seed
from voco_models.networks import (
    ORGAN_QUERIES,
    Backbone,
    FeatureLayout,
    HeadOutput,
    OrganQueryHead,
    attention_loss,
    box_masks,
    find_head,
)
from voco_models.objectives import (
    ORGAN_BOXES,
    depths_of,
    loss_weights,
    weighted_cross_entropy,
)
from voco_models.stages import FinetunePlan, FinetuneRecipe, Series
from voco_models.training import Optimizer, warmup_cosine

FloatArray = npt.NDArray[np.float32]
SMALLEST_SD = 1e-6

Forward: TypeAlias = Callable[[Tensor, list[int], Tensor | None], HeadOutput]
"""Features (B, Z, K), the places of their B series in the list of all, and depths (B, Z), to the
output of the head."""


@dataclass(frozen=True, slots=True)
class HeadSetting:
    """A row of the table: a head, and the features that it gets."""

    head: str
    kind: Kind
    layout: FeatureLayout
    """Of the features that the head gets; of `stages`, after they were joined."""


class FrozenFeatureHead(nn.Module):
    """What is trained: the head, and before it the projections of stages, or a fixed scaling.

    Features (B, Z, K) of slices, as they are cached, to logits. `FrozenStages` trains it.
    """

    mean: Tensor
    sd: Tensor

    def __init__(
        self,
        setting: HeadSetting,
        backbone: Backbone,
        recipe: FinetuneRecipe,
        scale: tuple[Tensor, Tensor] | None,
    ) -> None:
        """`scale` are mean and standard deviation (K,) of pooled features; None for stages."""
        super().__init__()
        self.layout = setting.layout
        self.joined = (
            join_stages(backbone, recipe.view.size_px, setting.layout.channels)
            if setting.kind == "stages"
            else None
        )
        self.head = find_head(setting.head)(setting.layout, recipe.targets, recipe.head_options)
        mean, sd = scale if scale is not None else (torch.zeros(()), torch.ones(()))
        self.register_buffer("mean", mean)
        self.register_buffer("sd", sd)

    def forward(self, features: Tensor, depths_mm: Tensor | None) -> HeadOutput:
        """Logits of features (B, Z, K), of slices at `depths_mm` (B, Z) if the head needs them."""
        if self.joined is None:
            vectors = (features.float() - self.mean) / self.sd
        else:
            maps = split_maps(features.flatten(0, 1).float(), self.joined.shapes)
            vectors = self.joined.join([one.permute(0, 3, 1, 2) for one in maps])
        shaped = vectors.reshape(*features.shape[:2], self.layout.channels, -1).transpose(2, 3)
        output: HeadOutput = self.head(shaped, depths_mm)
        return output


def train_head(
    plan: FinetunePlan,
    setting: HeadSetting,
    backbone: Backbone,
    features: CachedFeatures,
    *,
    fold: int,
    seed: int,
    device: torch.device,
) -> tuple[FrozenFeatureHead, list[float]]:
    """A head that was trained on the training series of a fold, and the loss of each step.

    The same seed gives the same weights on one machine. Raises VocoError if a loss is not finite.
    """
    recipe, series = plan.recipe, plan.training_series(fold)
    arrays = features.open(setting.kind, series.rows)
    classes, geometry = plan.classes_of(series), plan.geometry_of(series)
    steps = plan.count_steps(fold)
    order = BatchOrder(
        len(series), recipe.batch_size, step_seed(seed, fold), 0, 1, plan.weights_of(series)
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(step_seed(seed, fold))
        scale = measure_scale(arrays) if setting.kind == "pooled" else None
        network = FrozenFeatureHead(setting, backbone, recipe, scale)
        if isinstance(network.head, OrganQueryHead):
            network.head.set_prior(geometry[ORGAN_BOXES])
        network.to(device).train()
        forward = make_forward(network, arrays)
        weights = loss_weights(classes, recipe.loss_targets).to(device)
        optimizer = use_fused_kernel(recipe.optimizer).build(
            [{"params": list(network.parameters())}],
            lr=recipe.lr,
            weight_decay=recipe.weight_decay,
            amsgrad=False,
            device=device,
        )
        losses = []
        for step in range(steps):
            factor = warmup_cosine(
                step,
                total=steps,
                warmup=round(recipe.warmup_fraction * steps),
                final_fraction=recipe.final_lr_fraction,
            )
            for group in optimizer.param_groups:
                group["lr"] = recipe.lr * factor
            chosen = order.indices_at(step).tolist()
            batch = {name: t[chosen].to(device) for name, t in (classes | geometry).items()}
            read = stack_features([arrays[index] for index in chosen]).to(device)
            depths = depths_of(batch, recipe.view)
            loss = _loss(network, recipe, forward(read, chosen, depths), batch, depths, weights)
            optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            if recipe.clip_norm is not None:
                nn.utils.clip_grad_norm_(network.parameters(), recipe.clip_norm)
            optimizer.step()
            losses.append(loss.detach())
    values = torch.stack(losses).tolist()
    if not all(map(math.isfinite, values)):
        raise VocoError(
            f"head {setting.head}: the loss is not finite in fold {fold}; lower lr with a recipe"
        )
    return network, values


def make_forward(network: FrozenFeatureHead, arrays: Sequence[HalfArray]) -> Forward:
    """The forward pass of a training step on some of the series with features `arrays`, (Z, K)."""
    if network.joined is not None and isinstance(network.head, OrganQueryHead):
        stages = FrozenStages(network.joined, network.head, arrays)

        def on_stages(features: Tensor, chosen: list[int], depths_mm: Tensor | None) -> HeadOutput:
            assert depths_mm is not None  # the head needs them
            return stages(features, chosen, depths_mm)

        return on_stages
    return lambda features, _, depths_mm: network(features, depths_mm)


def use_fused_kernel(optimizer: Optimizer) -> Optimizer:
    """The same optimiser with torch's fused kernel also on the CPU, unless the recipe says `off`.

    A head has many small parameters, which cost a Python call each without it.
    """
    return dataclasses.replace(optimizer, fused="on") if optimizer.fused == "auto" else optimizer


def _loss(
    network: FrozenFeatureHead,
    recipe: FinetuneRecipe,
    output: HeadOutput,
    batch: Mapping[str, Tensor],
    depths_mm: Tensor | None,
    weights: Tensor,
) -> Tensor:
    """As `ClassificationObjective`: the mean over the groups, and the loss of the attention."""
    loss = weighted_cross_entropy(output.logits, batch, weights).mean()
    if recipe.attention_weight and network.joined is not None:
        assert depths_mm is not None  # `organ_queries` needs them
        masks = box_masks(batch[ORGAN_BOXES], depths_mm, network.layout.places)
        loss = loss + recipe.attention_weight * attention_loss(
            list(output.attention.values()), masks
        )
    return loss


@torch.inference_mode()
def predict_head(
    plan: FinetunePlan,
    setting: HeadSetting,
    network: FrozenFeatureHead,
    features: CachedFeatures,
    series: Series,
    device: torch.device,
) -> dict[str, FloatArray]:
    """Probabilities (N, C) by group of N `series`."""
    network.eval()
    arrays = features.open(setting.kind, series.rows)
    geometry = plan.geometry_of(series)
    parts: list[dict[str, Tensor]] = []
    for start in range(0, len(arrays), plan.recipe.batch_size):
        chosen = list(range(start, min(start + plan.recipe.batch_size, len(arrays))))
        batch = {name: tensor[chosen].to(device) for name, tensor in geometry.items()}
        depths = depths_of(batch, plan.recipe.view)
        read = stack_features([arrays[index] for index in chosen]).to(device)
        logits = network(read, depths).logits
        parts.append({name: z.float().softmax(dim=-1).cpu() for name, z in logits.items()})
    return {name: torch.cat([part[name] for part in parts]).numpy() for name in parts[0]}


def measure_scale(arrays: Sequence[HalfArray]) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (K,) of features (Z, K) over all slices of N series.

    A feature that hardly varies has the deviation 1, so that it is not enlarged.
    """
    n = sum(len(array) for array in arrays)
    mean = sum(array.astype(np.float64).sum(axis=0) for array in arrays) / n
    squares = sum(np.square(array.astype(np.float64) - mean).sum(axis=0) for array in arrays) / n
    sd = np.sqrt(squares)
    sd = np.where(sd < SMALLEST_SD, 1.0, sd)
    return torch.from_numpy(mean).float(), torch.from_numpy(sd).float()


def is_fine(head: str) -> bool:
    """Whether a head is also trained on the maps of all stages."""
    return head == ORGAN_QUERIES
