"""The slice-sequence classifier: CNN a slice, BiLSTM over slices, maximum, a head an organ."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from voco_models.data.augment3d import Augmentation, apply_draws
from voco_models.data.loader import Batch
from voco_models.data.volume_view import VolumeView
from voco_models.data.window import Contrast
from voco_models.networks.backbones import Backbone
from voco_models.networks.heads import OrganHeads
from voco_models.networks.sequence import BiLstm
from voco_models.training.engine import Objective

WHOLE = Contrast()
"""All of the store's window."""

SlicePooling = Literal["mean", "quadrants"]
"""How a slice's feature map becomes one vector: its mean, or the maximum of each quadrant."""
QUADRANTS = (2, 2)
FeatureNorm = Literal["none", "batch"]
"""What happens to a slice's vector before the LSTM. Batch norm helps where data are few."""

OverSlices = Literal["max", "max_mean"]
"""How the slices become one vector: the maximum, or it beside the mean. Every slice learns from a
mean, only the strongest from a maximum."""


class SliceSequenceClassifier(nn.Module):
    """(B, Z, Y, X) in [-1, 1] -> logits (B, 3 organs, 3 grades). Paper, section 2.2.

    The backbone sees B*Z one-channel images, `images_per_call` at a time, or all at once.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        hidden: int,
        layers: int = 1,
        dropout: float = 0.0,
        pooling: SlicePooling = "mean",
        feature_norm: FeatureNorm = "none",
        over_slices: OverSlices = "max",
        images_per_call: int | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.pooling = pooling
        self.over_slices = over_slices
        self.images_per_call = images_per_call
        width = backbone.num_features * (math.prod(QUADRANTS) if pooling == "quadrants" else 1)
        self.norm = nn.BatchNorm1d(width) if feature_norm == "batch" else nn.Identity()
        self.sequence = BiLstm(width, hidden, layers)
        self.dropout = nn.Dropout(dropout)
        parts = 2 if over_slices == "max_mean" else 1
        self.heads = OrganHeads(parts * self.sequence.num_features)

    def forward(self, volumes: Tensor) -> Tensor:
        """Logits (B, 3, 3)."""
        context = self.sequence(self.slice_features(volumes))  # (B, Z, 2 H)
        summary = context.amax(dim=1)  # (B, 2 H)
        if self.over_slices == "max_mean":
            summary = torch.cat([summary, context.mean(dim=1)], dim=1)  # (B, 4 H)
        logits: Tensor = self.heads(self.dropout(summary))
        return logits

    def slice_features(self, volumes: Tensor) -> Tensor:
        """One vector a slice, (B, Z, F)."""
        B, Z, Y, X = volumes.shape
        images = volumes.reshape(B * Z, 1, Y, X)
        calls = torch.split(images, self.images_per_call or len(images))
        vectors = torch.cat([self._pool(self.backbone(part)) for part in calls])
        normed: Tensor = self.norm(vectors)
        return normed.reshape(B, Z, -1)

    def _pool(self, maps: Tensor) -> Tensor:
        if self.pooling == "mean":
            return maps.mean(dim=(2, 3))
        return functional.adaptive_max_pool2d(maps, QUADRANTS).flatten(1)


def weighted_cross_entropy(logits: Tensor, grades: Tensor, weights: Tensor) -> Tensor:
    """Mean over patients of w * -log p for each organ, (3,).

    logits (B, 3, 3), grades (B, 3), weights (3 organs, 3 grades).
    """
    losses = functional.cross_entropy(logits.flatten(0, 1), grades.flatten(), reduction="none")
    chosen = weights.gather(1, grades.T).T  # (B, 3): the weight of each true grade
    return (losses.reshape(grades.shape) * chosen).mean(dim=0)


def loss_weights(grades: Tensor, class_weights: Sequence[float]) -> Tensor:
    """Weights (3, 3) whose mean over the training patients' `grades` (P, 3) is 1 for each organ.

    The score divides by the sum of weights over all patients. Dividing by the training set's mean
    weight keeps an epoch's loss equal to the score; dividing by a small batch's own sum would not:
    a batch of one patient would have no weights at all.
    """
    raw = torch.tensor(class_weights, dtype=torch.float32)
    return raw / raw[grades].mean(dim=0)[:, None]


class ClassificationObjective(Objective):
    """Weighted cross-entropy of a classifier, mean over the organs: what the RSNA score measures.

    `weights` is (3, 3) from `loss_weights`; the batch's targets are grades, int64 (B, 3).
    """

    def __init__(
        self,
        classifier: SliceSequenceClassifier,
        view: VolumeView,
        augmentation: Augmentation,
        weights: Tensor,
        contrast: Contrast = WHOLE,
    ) -> None:
        super().__init__()
        self.classifier = classifier
        self.view = view
        self.augmentation = augmentation
        self.contrast = contrast
        self.register_buffer("weights", weights)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The loss, and each organ's part of it."""
        assert batch.targets is not None
        generator = torch.Generator().manual_seed(batch.seed)
        views = self.view.random(batch.volumes, generator)
        draws = self.augmentation.draw(len(views), generator)
        volumes = 2 * apply_draws(self.contrast.unit(views), draws) - 1
        logits = self.classifier(volumes).float()
        organs = weighted_cross_entropy(logits, batch.targets, self.get_buffer("weights"))
        kidney, liver, spleen = organs
        return {"loss": organs.mean(), "kidney": kidney, "liver": liver, "spleen": spleen}


@torch.inference_mode()
def predict(
    classifier: SliceSequenceClassifier,
    view: VolumeView,
    volumes: Tensor,
    flips: Sequence[tuple[int, ...]] = ((),),
    contrast: Contrast = WHOLE,
) -> Tensor:
    """Probabilities (B, 3, 3), float32, of stored uint8 volumes (B, Z, Y, X).

    The mean over `flips`, each a set of axes of (B, Z, Y, X) to turn round; () is the plain view.
    The classifier must be in evaluation mode.
    """
    inputs = 2 * contrast.unit(view.middle(volumes)) - 1
    views = [inputs.flip(axes) if axes else inputs for axes in flips]
    return torch.stack([classifier(v).float().softmax(dim=-1) for v in views]).mean(dim=0)
