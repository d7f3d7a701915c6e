"""Mixup: mixtures, losses and draws by hand; partners of one process and of several."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from voco_data.errors import InputError
from voco_data.labels.targets import ORGAN_TARGETS
from voco_data.store.spec import FINETUNE
from voco_models.data.augment_volumes import Augmentation
from voco_models.data.loader import Batch
from voco_models.data.volume_view import VolumeView
from voco_models.data.window import input_window
from voco_models.networks.backbones import TINY_BACKBONE
from voco_models.networks.classifier import SliceSequenceClassifier
from voco_models.networks.heads import HeadOptions
from voco_models.networks.registry import create_backbone
from voco_models.objectives import classification
from voco_models.objectives.classification import ClassificationObjective
from voco_models.objectives.mixup import check_pairs, draw_shares, mix, partners

ORGANS = ORGAN_TARGETS.names


def objective_of(alpha: float, weights: Tensor | None = None) -> ClassificationObjective:
    torch.manual_seed(0)
    classifier = SliceSequenceClassifier(
        create_backbone(TINY_BACKBONE), 64, options=HeadOptions(hidden=8)
    )
    return ClassificationObjective(
        classifier,
        VolumeView(slices=2, size_px=64, reduce="average"),
        Augmentation(log_gamma=0.3, flip_x=0.5),
        torch.ones(3, 3) if weights is None else weights,
        input_window(None, FINETUNE),
        mixup_alpha=alpha,
    )


def batch_of(seed: int = 5) -> Batch:
    volumes = torch.randint(
        0, 256, (4, 2, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    classes = torch.tensor([0, 1, 2, 0])
    return Batch(volumes, torch.tensor([8, 3, 5, 0]), seed, dict.fromkeys(ORGANS, classes))


def test_mixtures_by_hand() -> None:
    """The partners of four volumes are 2, 3, 0 and 1."""
    volumes = torch.tensor([1.0, 2, 3, 4])[:, None, None].expand(4, 2, 3)
    mixed = mix(volumes, torch.tensor([1.0, 0.5, 0.25, 0]))
    assert mixed.shape == (4, 2, 3)
    assert mixed[:, 1, 2].tolist() == [1, 0.5 * 2 + 0.5 * 4, 0.25 * 3 + 0.75 * 1, 2]


def test_losses_by_hand() -> None:
    """lambda w[y] -log p[y] + (1 - lambda) w[y'] -log p[y'], with p = 1/2, 1/4, 1/4."""
    weights = torch.tensor([[1.0, 2, 4]] * 3)
    objective = objective_of(0.4, weights)
    logits = dict.fromkeys(ORGANS, torch.tensor([0.5, 0.25, 0.25]).log().expand(2, 3))
    classes = dict.fromkeys(ORGANS, torch.tensor([0, 2]))
    losses = objective._losses(logits, classes, torch.tensor([0.75, 0.5]))
    first = 0.75 * 1 * math.log(2) + 0.25 * 4 * math.log(4)
    second = 0.5 * 4 * math.log(4) + 0.5 * 1 * math.log(2)
    torch.testing.assert_close(losses, torch.full((3,), (first + second) / 2))


def test_shares_follow_the_beta_distribution() -> None:
    """Mean 1/2, variance 1 / (4 (2 alpha + 1)); below 1 most are near 0 and 1."""
    for alpha in (0.4, 2.0):
        shares = draw_shares(alpha, 0, range(4000))
        assert shares.dtype == torch.float32
        assert 0 <= float(shares.min()) < float(shares.max()) <= 1
        variance = 1 / (4 * (2 * alpha + 1))
        # Five standard errors of the mean; the variance of 4,000 draws is known to some 5 %.
        assert abs(float(shares.mean()) - 0.5) < 5 * math.sqrt(variance / 4000)
        assert abs(float(shares.var()) / variance - 1) < 0.1
        extreme = float(((shares < 0.05) | (shares > 0.95)).float().mean())
        assert (extreme > 0.25) == (alpha < 1)


def test_shares_depend_on_the_step_and_the_item_only() -> None:
    together = draw_shares(0.4, 11, [7, 3, 9])
    assert together.tolist() == [float(draw_shares(0.4, 11, [key])[0]) for key in (7, 3, 9)]
    assert not torch.equal(together, draw_shares(0.4, 12, [7, 3, 9]))


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_partners_in_a_process_are_those_in_the_joined_batch(processes: int) -> None:
    joined = torch.arange(8)
    assert (joined != partners(joined)).all()
    for rank in range(processes):
        mine = joined[rank::processes]
        assert torch.equal(partners(mine), partners(joined)[rank::processes])


def seen_by(objective: ClassificationObjective, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
    """The volumes that the classifier gets, and the scalars of a step."""
    seen: list[Tensor] = []

    def look(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen.append(inputs[0])

    handle = objective.classifier.features.register_forward_pre_hook(look)
    scalars = objective(batch)
    handle.remove()
    return seen[0], scalars


def test_a_step_mixes_what_it_would_see_without(monkeypatch: pytest.MonkeyPatch) -> None:
    """The changes of intensity and place are drawn as before; the mixture is of their results."""
    shares = torch.tensor([0.9, 0.2, 0.6, 0.5])
    plain, _ = seen_by(objective_of(0.0), batch_of())
    monkeypatch.setattr(classification, "draw_shares", lambda *_: shares)
    mixed, scalars = seen_by(objective_of(0.4), batch_of())
    for row, partner in enumerate((2, 3, 0, 1)):
        expected = shares[row] * plain[row] + (1 - shares[row]) * plain[partner]
        torch.testing.assert_close(mixed[row], expected)
    assert set(scalars) == {"loss", *ORGANS}
    torch.testing.assert_close(scalars["loss"], sum(scalars[name] for name in ORGANS) / 3)


def test_shares_of_one_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    _, plain = seen_by(objective_of(0.0), batch_of())
    monkeypatch.setattr(classification, "draw_shares", lambda *_: torch.ones(4))
    _, mixed = seen_by(objective_of(0.4), batch_of())
    torch.testing.assert_close(mixed, plain)


def test_a_step_is_drawn_by_its_seed() -> None:
    first, again, other = (
        seen_by(objective_of(0.4), batch_of(seed))[1]["loss"].detach() for seed in (5, 5, 6)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_an_odd_batch_is_refused() -> None:
    check_pairs(4)
    with pytest.raises(InputError, match=r"needs an even batch_size, .* got a batch of 3"):
        check_pairs(3)
