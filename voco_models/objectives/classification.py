"""Supervised classification with the weighted cross-entropy of the RSNA score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from voco_data.labels import ORGAN_TARGETS, TargetTable
from voco_models.data import (
    Augmentation,
    AugmentationDraws,
    Batch,
    InputWindow,
    VolumeView,
    Z,
    apply_draws,
    centre,
    move_voxels,
    step_seed,
)
from voco_models.networks import SliceSequenceClassifier, attention_loss, box_masks
from voco_models.training import Objective

Z_EXTENT, ORGAN_BOXES = "z_extent_mm", "organ_boxes"
"""Names in a batch of the lengths of the stored boxes along z, (B,), and of organs' boxes."""


def weighted_cross_entropy(
    logits: Mapping[str, Tensor], targets: Mapping[str, Tensor], weights: Tensor
) -> Tensor:
    """Mean over patients of w * -log p for each of G groups, (G,), in the order of `logits`.

    `logits` (B, C) and `targets`, classes (B,), by group; `weights` (G, C) from `loss_weights`.
    """
    losses = torch.stack(
        [functional.cross_entropy(z, targets[g], reduction="none") for g, z in logits.items()],
        dim=1,
    )  # (B, G)
    classes = torch.stack([targets[group] for group in logits])  # (G, B)
    return (losses * weights.gather(1, classes).T).mean(dim=0)


def loss_weights(targets: Mapping[str, Tensor], table: TargetTable = ORGAN_TARGETS) -> Tensor:
    """The table's class weights, scaled to a mean of 1 over the training patients in each group.

    `targets` are classes (P,) of the training patients by group. Returns (G, C), where C is the
    number of classes of the largest group; the row of a smaller group ends with zeros.

    The score divides by the sum of weights over all patients. With weights divided by the mean over
    the training set, the mean loss of an epoch equals the score. If each batch divided by its own
    sum, it would not, and in a batch of one patient the weights would cancel.
    """
    scaled = torch.zeros(len(table), table.most_classes)
    for row, group in zip(scaled, table, strict=True):
        weights = torch.tensor(group.weights, dtype=torch.float32)
        row[: len(weights)] = weights / weights[targets[group.name]].mean()
    return scaled


class ClassificationObjective(Objective):
    """Weighted cross-entropy of a classifier, mean over the groups, as in the RSNA score.

    `weights` is (G, C) from `loss_weights`. The targets of a batch are classes, int64 (B,) by
    group. `window` gives the stored values that the classifier sees.
    """

    def __init__(
        self,
        classifier: SliceSequenceClassifier,
        view: VolumeView,
        augmentation: Augmentation,
        weights: Tensor,
        window: InputWindow,
        attention_weight: float = 0.0,
    ) -> None:
        """`attention_weight` is the factor of `attention_loss` in the loss."""
        super().__init__()
        self.attention_weight = attention_weight
        self.classifier = classifier
        self.view = view
        self.augmentation = augmentation
        self.window = window
        self.register_buffer("weights", weights)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Scalars: `loss`, and the loss of each group under its name."""
        # A generator for each volume: draws do not depend on the other volumes of the batch.
        generators = [
            torch.Generator().manual_seed(step_seed(batch.seed, item)) for item in batch.draw_keys()
        ]
        views = self.view.make_random_view(batch.volumes, generators)
        draws = AugmentationDraws.join([self.augmentation.draw(1, each) for each in generators])
        volumes = centre(apply_draws(self.window.to_unit(views), draws))
        depths_mm = depths_of(batch.targets, self.view)
        output = self.classifier.classify(volumes, depths_mm)
        logits = {group: z.float() for group, z in output.logits.items()}
        losses = weighted_cross_entropy(logits, batch.targets, self.get_buffer("weights"))
        scalars = {"loss": losses.mean(), **dict(zip(logits, losses, strict=True))}
        if self.attention_weight:
            assert depths_mm is not None
            masks = self._moved_masks(batch.targets[ORGAN_BOXES], depths_mm, draws)
            attention = attention_loss(list(output.attention.values()), masks)
            scalars |= {
                "loss": scalars["loss"] + self.attention_weight * attention,
                "attention": attention,
            }
        return scalars

    def _moved_masks(self, boxes: Tensor, depths_mm: Tensor, draws: AugmentationDraws) -> Tensor:
        """Masks (B, R, Z, h, w) of organs' boxes, moved as the volumes are."""
        masks = box_masks(boxes, depths_mm, self.classifier.features.layout.places).float()
        moved = [move_voxels(of_region, draws) for of_region in masks.unbind(dim=1)]
        return (torch.stack(moved, dim=1) >= 0.5).float()


def depths_of(targets: Mapping[str, Tensor], view: VolumeView) -> Tensor | None:
    """Depths (B, Z) of the slices of a batch; None if its targets have no `Z_EXTENT`."""
    extents = targets.get(Z_EXTENT)
    return None if extents is None else view.depths_mm(extents)


class Prediction(NamedTuple):
    """What a classifier says of B volumes."""

    probabilities: dict[str, Tensor]
    """(B, C), float32, by group."""
    attention: dict[str, Tensor]
    """Weights (B, Z) of the view's slices, which sum to 1; by group, or by region of the body.
    Empty for a head without attention."""


def predict(
    classifier: SliceSequenceClassifier,
    view: VolumeView,
    volumes: Tensor,
    window: InputWindow,
    flips: Sequence[tuple[int, ...]] = ((),),
    depths_mm: Tensor | None = None,
) -> dict[str, Tensor]:
    """The probabilities of `explain`."""
    return explain(classifier, view, volumes, window, flips, depths_mm).probabilities


@torch.inference_mode()
def explain(
    classifier: SliceSequenceClassifier,
    view: VolumeView,
    volumes: Tensor,
    window: InputWindow,
    flips: Sequence[tuple[int, ...]] = ((),),
    depths_mm: Tensor | None = None,
) -> Prediction:
    """Probabilities, and the attention to slices, of stored volumes (B, Z, Y, X).

    Averages over `flips`; each is a set of axes of (B, Z, Y, X) to flip, () for none. The
    classifier must be in evaluation mode. `depths_mm` (B, Z) is for heads that need it.
    """
    inputs = centre(window.to_unit(view.make_middle_view(volumes)))
    outputs = [
        classifier.classify(inputs.flip(axes) if axes else inputs, depths_mm) for axes in flips
    ]
    return Prediction(
        probabilities={
            group: torch.stack([o.logits[group].float().softmax(dim=-1) for o in outputs]).mean(
                dim=0
            )
            for group in outputs[0].logits
        },
        attention={
            name: torch.stack(
                [
                    _attention_to_slices(output.attention[name], turned=Z in axes)
                    for output, axes in zip(outputs, flips, strict=True)
                ]
            ).mean(dim=0)
            for name in outputs[0].attention
        },
    )


def _attention_to_slices(weights: Tensor, *, turned: bool) -> Tensor:
    """(B, Z) of weights (B, Z) or (B, Z, P), in the order of the slices before they were turned."""
    weights = weights.float()
    by_slice = weights.sum(dim=2) if weights.dim() == 3 else weights
    return by_slice.flip(1) if turned else by_slice
