"""The classifier: shapes, gradients, independence of patients and calls; its recipes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from voco_data.errors import InputError
from voco_data.labels.targets import ORGAN_TARGETS, TargetTable
from voco_models.networks.backbones import TINY_BACKBONE
from voco_models.networks.classifier import FORMER_NAMES, HEADS, SliceSequenceClassifier
from voco_models.networks.heads import (
    DEFAULT_OPTIONS,
    FeatureLayout,
    GroupHeads,
    Head,
    HeadOptions,
    HeadOutput,
)
from voco_models.networks.registry import create_backbone
from voco_models.stages.finetune_recipes import FINETUNE_RECIPES, finetune_recipe

ORGANS = ORGAN_TARGETS.names


def small_classifier(over_slices: str = "max", **options: object) -> SliceSequenceClassifier:
    torch.manual_seed(0)
    backbone = create_backbone(TINY_BACKBONE)
    settings = HeadOptions(hidden=8, over_slices=over_slices)  # type: ignore[arg-type]
    return SliceSequenceClassifier(backbone, 64, options=settings, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("pooling", ["mean", "quadrants"])
def test_shapes_and_calls(pooling: str) -> None:
    volumes = torch.rand(2, 5, 64, 64)
    whole = small_classifier(pooling=pooling).eval()
    parts = small_classifier(pooling=pooling, images_per_call=3).eval()
    with torch.inference_mode():
        logits = whole(volumes)
        assert {name: tuple(z.shape) for name, z in logits.items()} == dict.fromkeys(ORGANS, (2, 3))
        torch.testing.assert_close(parts(volumes), logits, rtol=1e-4, atol=1e-5)


class Unchanged(nn.Module):
    """In the place of an LSTM: the states are the features."""

    def forward(self, features: Tensor) -> tuple[Tensor, None]:
        return features, None


def test_max_mean_has_a_gradient_on_every_slice() -> None:
    grown = {}
    for over in ("max", "max_mean"):
        classifier = small_classifier(over_slices=over).eval()
        seen = torch.rand(1, 6, 1, 16, requires_grad=True)
        head = classifier.head
        head.lstm = Unchanged()
        sum(z.sum() for z in head(seen).logits.values()).backward()
        assert seen.grad is not None
        grown[over] = int((seen.grad != 0).sum())
    assert grown == {"max": 16, "max_mean": 6 * 16}


def test_a_patient_does_not_depend_on_its_neighbours() -> None:
    classifier = small_classifier().eval()
    volumes = torch.rand(3, 4, 64, 64)
    with torch.inference_mode():
        together, alone = classifier(volumes), classifier(volumes[1:2])
    second = {name: z[1:2] for name, z in together.items()}
    torch.testing.assert_close(second, alone, rtol=1e-4, atol=1e-5)


def test_every_slice_can_decide() -> None:
    classifier = small_classifier().eval()
    volumes = torch.rand(1, 4, 64, 64, requires_grad=True)
    classifier.features(volumes).square().sum().backward()
    assert volumes.grad is not None
    assert (volumes.grad.abs().amax(dim=(2, 3)) > 0).all()


class MeanHead(Head):
    """A head that voco does not have."""

    def __init__(
        self, layout: FeatureLayout, targets: TargetTable, options: HeadOptions = DEFAULT_OPTIONS
    ) -> None:
        super().__init__(layout, targets, options)
        self.heads = GroupHeads(layout.channels, targets)

    def forward(self, features: Tensor, depths_mm: Tensor | None = None) -> HeadOutput:
        return HeadOutput(self.heads(features.mean(dim=(1, 2))))


def test_a_head_is_one_class_and_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(HEADS, "mean", MeanHead)
    classifier = small_classifier(head="mean").eval()
    assert isinstance(classifier.head, MeanHead)
    logits = classifier(torch.rand(2, 4, 64, 64))
    assert {name: tuple(z.shape) for name, z in logits.items()} == dict.fromkeys(ORGANS, (2, 3))


def test_an_unknown_head_is_refused() -> None:
    with pytest.raises(InputError, match=r"expected one of bilstm, .*, got 'lstm'"):
        small_classifier(head="lstm")


def test_a_head_that_flattens_places_is_refused_with_all_places() -> None:
    with pytest.raises(InputError, match="bilstm needs pooling mean or quadrants, got stages"):
        small_classifier(pooling="stages")


def test_weights_of_older_runs_are_loaded_in_their_order() -> None:
    """Optimisers number their parameters, so a resumed run needs them in the former order."""
    classifier = small_classifier(feature_norm="batch")
    today = classifier.state_dict()
    names = {new: old for old, new in FORMER_NAMES.items()}
    former = {}
    for key, tensor in today.items():
        former[_former_name(key, names)] = tensor + 1
    assert {key.split(".")[0] for key in former} == {"backbone", "norm", "sequence", "heads"}
    assert "heads.heads.liver.weight" in former
    assert "sequence.lstm.weight_ih_l0" in former
    parts = [key.split(".")[0] for key in former]
    assert sorted(parts, key=["backbone", "norm", "sequence", "heads"].index) == parts
    nn.ModuleDict({"classifier": classifier}).load_state_dict(
        {f"classifier.{key}": tensor for key, tensor in former.items()}
    )
    for key, tensor in classifier.state_dict().items():
        assert torch.equal(tensor, former[_former_name(key, names)]), key


def _former_name(key: str, names: dict[str, str]) -> str:
    new = next(n for n in sorted(names, key=len, reverse=True) if key.startswith(n))
    return names[new] + key.removeprefix(new)


# Recipes


@pytest.mark.parametrize("name", sorted(FINETUNE_RECIPES))
def test_recipes_can_be_built(name: str) -> None:
    recipe = finetune_recipe(name)
    assert recipe.name == name
    recipe.view.check_grid((96, 256, 256))
    create_backbone(recipe.backbone)
    assert recipe.to_json()["lr"] == recipe.lr


def test_the_paper_is_the_default() -> None:
    recipe = finetune_recipe("default")
    assert (recipe.hidden, recipe.layers, recipe.n_folds) == (128, 1, 5)
    assert recipe.view.shape == (96, 256, 256)
    assert finetune_recipe("code").view.shape == (48, 192, 192)
    assert recipe.class_weights == (1, 2, 4)


def test_an_unknown_recipe_lists_the_known() -> None:
    with pytest.raises(InputError, match="default, code, tiny"):
        finetune_recipe("huge")
