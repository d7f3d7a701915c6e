"""The classification objective: its loss is the score, and it learns."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from voco_data.labels.targets import ORGAN_TARGETS, RSNA_TARGETS, TargetTable
from voco_data.store.spec import FINETUNE
from voco_models.data.augment_volumes import Augmentation, X
from voco_models.data.loader import Batch
from voco_models.data.volume_view import VolumeView
from voco_models.data.window import input_window
from voco_models.evaluation import metrics
from voco_models.networks.backbones import TINY_BACKBONE
from voco_models.networks.classifier import SliceSequenceClassifier
from voco_models.networks.heads import HeadOptions
from voco_models.networks.registry import create_backbone
from voco_models.objectives.classification import (
    ClassificationObjective,
    loss_weights,
    predict,
    weighted_cross_entropy,
)

WINDOW = input_window(None, FINETUNE)
ORGANS = ORGAN_TARGETS.names


def by_organ(grades: Tensor) -> dict[str, Tensor]:
    """Columns (N,) of grades (N, 3), by organ."""
    return dict(zip(ORGANS, grades.unbind(dim=1), strict=True))


def small_classifier(over_slices: str = "max", **options: object) -> SliceSequenceClassifier:
    torch.manual_seed(0)
    backbone = create_backbone(TINY_BACKBONE)
    settings = HeadOptions(hidden=8, over_slices=over_slices)  # type: ignore[arg-type]
    return SliceSequenceClassifier(backbone, 64, options=settings, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("table", [ORGAN_TARGETS, RSNA_TARGETS])
def test_loss_of_an_epoch_is_the_score(table: TargetTable) -> None:
    rng = np.random.default_rng(0)
    truths = {g.name: torch.from_numpy(rng.integers(len(g.classes), size=40)) for g in table}
    logits = {
        g.name: torch.from_numpy(rng.normal(size=(40, len(g.classes)))).float() for g in table
    }
    weights = loss_weights(truths, table)
    batches = [
        weighted_cross_entropy(
            {name: values[i : i + 4] for name, values in logits.items()},
            {name: values[i : i + 4] for name, values in truths.items()},
            weights,
        )
        for i in range(0, 40, 4)
    ]
    expected = [
        metrics.weighted_log_loss(
            logits[g.name].softmax(dim=-1).numpy(), truths[g.name].numpy(), g.weights
        )
        for g in table
    ]
    np.testing.assert_allclose(torch.stack(batches).mean(dim=0), expected, rtol=1e-5)


def test_weights_by_hand() -> None:
    grades = by_organ(torch.tensor([[0, 2, 1], [0, 0, 1]]))
    weights = loss_weights(grades)
    expected = [[1, 2, 4], [0.4, 0.8, 1.6], [0.5, 1, 2]]
    np.testing.assert_allclose(weights, expected, rtol=1e-6)


def test_flipped_views_are_averaged() -> None:
    classifier = small_classifier().eval()
    view = VolumeView(slices=4, size_px=64, reduce="average")
    volumes = torch.randint(0, 256, (2, 4, 64, 64), dtype=torch.uint8)
    plain = predict(classifier, view, volumes, WINDOW)
    turned = predict(classifier, view, volumes.flip(X), WINDOW)
    both = predict(classifier, view, volumes, WINDOW, ((), (X,)))
    for organ in ORGANS:
        torch.testing.assert_close(both[organ], (plain[organ] + turned[organ]) / 2)
        torch.testing.assert_close(plain[organ].sum(dim=-1), torch.ones(2))
        assert not torch.allclose(plain[organ], turned[organ])


def test_learns_which_side_is_dark() -> None:
    """Liver high where the right half is dark, spleen low where the left half is."""
    volumes = torch.full((8, 4, 64, 64), 160, dtype=torch.uint8)
    grades = torch.zeros(8, 3, dtype=torch.long)
    volumes[::2, 1:3, 20:40, 8:24] = 90
    grades[::2, 1] = 2
    volumes[:4, 1:3, 20:40, 40:56] = 90
    grades[:4, 2] = 1
    view = VolumeView(slices=4, size_px=64, reduce="average")
    classifier = small_classifier(pooling="quadrants", feature_norm="batch", over_slices="max_mean")
    targets = by_organ(grades)
    objective = ClassificationObjective(
        classifier, view, Augmentation(log_gamma=0.1), loss_weights(targets), WINDOW
    )
    optimizer = torch.optim.AdamW(objective.parameters(), lr=5e-3)
    losses = []
    for step in range(60):
        parts = objective(Batch(volumes, torch.arange(8), seed=step, targets=targets))
        losses.append(float(parts["loss"].detach()))
        optimizer.zero_grad()
        parts["loss"].backward()
        optimizer.step()
    assert set(parts) == {"loss", *ORGANS}
    assert losses[-1] < 0.2 * losses[0]


def test_two_and_three_classes_are_trained_side_by_side() -> None:
    generator = torch.Generator().manual_seed(0)
    volumes = torch.randint(0, 256, (4, 4, 64, 64), dtype=torch.uint8, generator=generator)
    truths = {group.name: torch.arange(4) % len(group.classes) for group in RSNA_TARGETS}
    view = VolumeView(slices=4, size_px=64, reduce="average")
    classifier = small_classifier(targets=RSNA_TARGETS)
    weights = loss_weights(truths, RSNA_TARGETS)
    assert weights.shape == (5, 3)
    assert (weights[:2, 2] == 0).all()  # bowel and extravasation have two classes
    objective = ClassificationObjective(classifier, view, Augmentation(), weights, WINDOW)
    parts = objective(Batch(volumes, torch.arange(4), seed=0, targets=truths))
    parts["loss"].backward()
    assert list(parts) == ["loss", *RSNA_TARGETS.names]
    assert all(
        head.weight.grad is not None and head.weight.grad.abs().sum() > 0
        for head in classifier.head.heads.heads.values()
    )
    probabilities = predict(classifier.eval(), view, volumes, WINDOW)
    assert {name: p.shape[1] for name, p in probabilities.items()} == {
        "bowel": 2, "extravasation": 2, "kidney": 3, "liver": 3, "spleen": 3,
    }  # fmt: skip


def test_attention_is_drawn_into_boxes_that_move_with_the_volumes() -> None:
    """A shift along z moves the box by as many slices; series without boxes add nothing."""
    torch.manual_seed(0)
    view = VolumeView(slices=8, size_px=32, reduce="average")
    classifier = SliceSequenceClassifier(
        create_backbone(TINY_BACKBONE),
        32,
        head="organ_queries",
        options=HeadOptions(hidden=8),
        pooling="stages",
    )
    truths = {name: torch.zeros(2, dtype=torch.long) for name in ORGANS}
    extents = torch.tensor([800.0, 800.0])
    boxes = torch.full((2, 4, 2, 3), torch.nan)
    boxes[0] = torch.tensor([[200.0, 0.0, 0.0], [400.0, 1.0, 1.0]])  # slices 4 and 5 of 0 to 7
    geometry = {"z_extent_mm": extents, "organ_boxes": boxes}
    objective = ClassificationObjective(
        classifier, view, Augmentation(shift_z=0.4), loss_weights(truths), WINDOW, 0.5
    )
    depths = view.depths_mm(extents)
    seen = set()
    for seed in range(30):
        draws = objective.augmentation.draw(2, torch.Generator().manual_seed(seed))
        masks = objective._moved_masks(boxes, depths, draws)
        moved = round(float(draws.shift_z[0]) * 8)
        slices = masks[0, 0].amax(dim=(1, 2)).nonzero().flatten().tolist()
        assert slices == [z for z in (4 + moved, 5 + moved) if z < 8]
        seen.add(moved)
        assert masks[1].sum() == 0
    assert {-2, 0, 2} <= seen
    volumes = torch.randint(0, 256, (2, 8, 32, 32), dtype=torch.uint8)
    parts = objective(Batch(volumes, torch.arange(2), seed=0, targets=truths | geometry))
    graded = torch.stack([parts[name] for name in ORGANS]).mean()
    torch.testing.assert_close(parts["loss"], graded + 0.5 * parts["attention"])
    parts["loss"].backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in objective.parameters())
