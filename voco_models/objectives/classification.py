"""Supervised classification with the weighted cross-entropy of the RSNA score."""

from __future__ import annotations

import copy
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
    copy_to_device,
    move_slices,
    move_voxels,
    step_seed,
)
from voco_models.networks import (
    HeadOutput,
    SliceSequenceClassifier,
    StatisticsGuard,
    attention_loss,
    box_masks,
    slice_loss,
    update_average,
)
from voco_models.objectives.mixup import draw_shares, mix, partners
from voco_models.training import Objective

Z_EXTENT, ORGAN_BOXES, SLICE_LABELS = "z_extent_mm", "organ_boxes", "slice_labels"
"""Names in a batch of the lengths of the stored boxes along z, (B,), of organs' boxes, and of the
labels of slices, (B, F, Z)."""


def weighted_cross_entropy(
    logits: Mapping[str, Tensor],
    targets: Mapping[str, Tensor],
    weights: Tensor,
    shares: Tensor | None = None,
) -> Tensor:
    """Mean over patients of w * -log p for each of G groups, (G,), in the order of `logits`.

    `logits` (B, C) and `targets`, classes (B,), by group; `weights` (G, C) from `loss_weights`.
    `shares` (B,) are factors of the patients' losses.
    """
    losses = torch.stack(
        [functional.cross_entropy(z, targets[g], reduction="none") for g, z in logits.items()],
        dim=1,
    )  # (B, G)
    classes = torch.stack([targets[group] for group in logits])  # (G, B)
    weighted = losses * weights.gather(1, classes).T
    if shares is not None:
        weighted = weighted * shares[:, None]
    return weighted.mean(dim=0)


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
        *,
        slice_weight: float = 0.0,
        ema_decay: float = 0.0,
        mixup_alpha: float = 0.0,
    ) -> None:
        """`attention_weight` is the factor of `attention_loss` in the loss, `slice_weight` that of
        `slice_loss`, which needs `SLICE_LABELS` in the batches.

        With `ema_decay` above 0, the exponential moving average of the classifier's parameters and
        buffers over steps is kept too; see `predictor`. With `mixup_alpha` above 0, volumes are
        mixed in pairs; batches must then have an even number of them.
        """
        super().__init__()
        self.attention_weight = attention_weight
        self.slice_weight = slice_weight
        self.mixup_alpha = mixup_alpha
        self.ema_decay = ema_decay
        self.classifier = classifier
        self.average = copy.deepcopy(classifier).requires_grad_(False) if ema_decay else None
        self._guard = StatisticsGuard()
        self.view = view
        self.augmentation = augmentation
        self.window = window
        self.register_buffer("weights", weights)

    @property
    def predictor(self) -> SliceSequenceClassifier:
        """The classifier to predict with: the average over steps, if there is one."""
        return self.classifier if self.average is None else self.average

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Scalars: `loss`, and the loss of each group under its name."""
        self._guard.restore()
        # A generator for each volume: draws do not depend on the other volumes of the batch.
        generators = [
            torch.Generator().manual_seed(step_seed(batch.seed, item)) for item in batch.draw_keys()
        ]
        views = self.view.make_random_view(batch.volumes, generators)
        draws = AugmentationDraws.join([self.augmentation.draw(1, each) for each in generators])
        volumes = centre(apply_draws(self.window.to_unit(views), draws))
        depths_mm = depths_of(batch.targets, self.view)
        shares = self._draw_shares(batch)
        if shares is not None:
            volumes = mix(volumes, shares)
        output = self.classifier.classify(volumes, depths_mm)
        if self.classifier.features.recompute != "off" and torch.is_grad_enabled():
            self._guard.keep(self.classifier.features)
        logits = {group: z.float() for group, z in output.logits.items()}
        losses = self._losses(logits, batch.targets, shares)
        scalars = {"loss": losses.mean(), **dict(zip(logits, losses, strict=True))}
        if self.attention_weight:
            assert depths_mm is not None
            masks = self._moved_masks(batch.targets[ORGAN_BOXES], depths_mm, draws)
            attention = attention_loss(list(output.attention.values()), masks)
            scalars |= {
                "loss": scalars["loss"] + self.attention_weight * attention,
                "attention": attention,
            }
        if self.slice_weight:
            of_slices = self._slice_loss(output, batch.targets[SLICE_LABELS], draws)
            scalars |= {
                "loss": scalars["loss"] + self.slice_weight * of_slices,
                "slices": of_slices,
            }
        return scalars

    def after_step(self, progress: float) -> None:  # noqa: ARG002  of other objectives
        """Update the average of the classifier, if there is one."""
        self._guard.restore()
        if self.average is not None:
            update_average(self.average, self.classifier, self.ema_decay)

    def _draw_shares(self, batch: Batch) -> Tensor | None:
        """Shares (B,) of the volumes in their mixtures, on the device; None without mixup."""
        if not self.mixup_alpha:
            return None
        shares = draw_shares(self.mixup_alpha, batch.seed, batch.draw_keys())
        return copy_to_device(shares, batch.volumes.device)

    def _losses(
        self, logits: Mapping[str, Tensor], targets: Mapping[str, Tensor], shares: Tensor | None
    ) -> Tensor:
        """The loss of each group, (G,); of a mixture, those of both targets by their shares."""
        weights = self.get_buffer("weights")
        if shares is None:
            return weighted_cross_entropy(logits, targets, weights)
        of_partners = {group: partners(targets[group]) for group in logits}
        own = weighted_cross_entropy(logits, targets, weights, shares)
        return own + weighted_cross_entropy(logits, of_partners, weights, 1 - shares)

    def _slice_loss(self, output: HeadOutput, labels: Tensor, draws: AugmentationDraws) -> Tensor:
        """The loss of the slices; each finding has the class weights of its group."""
        of_groups = dict(zip(output.logits, self.get_buffer("weights"), strict=True))
        weights = torch.stack([of_groups[finding][:2] for finding in output.slices])
        logits = torch.stack([z.float() for z in output.slices.values()], dim=1)
        return slice_loss(logits, move_slices(labels, draws), weights)

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
