"""The classifier: shapes, gradients, independence of patients and calls; its recipes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from voco_data.errors import InputError
from voco_data.labels.targets import ORGAN_TARGETS
from voco_models.networks.backbones import TINY_BACKBONE
from voco_models.networks.classifier import SliceSequenceClassifier
from voco_models.networks.registry import create_backbone
from voco_models.networks.sequence_models import SEQUENCE_MODELS, SequenceModel
from voco_models.stages.finetune_recipes import FINETUNE_RECIPES, finetune_recipe

ORGANS = ORGAN_TARGETS.names


def small_classifier(**options: object) -> SliceSequenceClassifier:
    torch.manual_seed(0)
    backbone = create_backbone(TINY_BACKBONE)
    return SliceSequenceClassifier(backbone, hidden=8, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("pooling", ["mean", "quadrants"])
def test_shapes_and_calls(pooling: str) -> None:
    volumes = torch.rand(2, 5, 64, 64)
    whole = small_classifier(pooling=pooling).eval()
    parts = small_classifier(pooling=pooling, images_per_call=3).eval()
    with torch.inference_mode():
        logits = whole(volumes)
        assert {name: tuple(z.shape) for name, z in logits.items()} == dict.fromkeys(ORGANS, (2, 3))
        torch.testing.assert_close(parts(volumes), logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("feature_norm", ["none", "batch"])
def test_max_mean_has_a_gradient_on_every_slice(feature_norm: str) -> None:
    grown = {}
    for over in ("max", "max_mean"):
        classifier = small_classifier(over_slices=over, feature_norm=feature_norm).eval()
        seen = torch.rand(1, 6, classifier.sequence.num_features, requires_grad=True)
        classifier.slice_features = lambda volumes: volumes  # type: ignore[method-assign]
        classifier.sequence = torch.nn.Identity()  # type: ignore[assignment]
        sum(z.sum() for z in classifier(seen).values()).backward()
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
    classifier.slice_features(volumes).square().sum().backward()
    assert volumes.grad is not None
    assert (volumes.grad.abs().amax(dim=(2, 3)) > 0).all()


class BiGru(SequenceModel):
    """A sequence model that voco does not have."""

    def __init__(self, num_features: int, hidden: int, layers: int = 1) -> None:
        super().__init__(num_features, hidden, layers)
        self.gru = nn.GRU(num_features, hidden, layers, batch_first=True, bidirectional=True)
        self.num_features = 2 * hidden

    def forward(self, features: Tensor) -> Tensor:
        context: Tensor = self.gru(features)[0]
        return context


def test_a_sequence_model_is_one_class_and_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SEQUENCE_MODELS, "bigru", BiGru)
    classifier = small_classifier(sequence="bigru").eval()
    assert isinstance(classifier.sequence, BiGru)
    logits = classifier(torch.rand(2, 4, 64, 64))
    assert {name: tuple(z.shape) for name, z in logits.items()} == dict.fromkeys(ORGANS, (2, 3))


def test_the_bilstm_is_the_default_and_keeps_its_names() -> None:
    names = small_classifier().state_dict()
    assert {n.split(".")[1] for n in names if n.startswith("sequence.")} == {"lstm"}
    assert {f"heads.heads.{organ}.weight" for organ in ORGANS} <= set(names)


def test_an_unknown_sequence_model_is_refused() -> None:
    with pytest.raises(InputError, match=r"expected one of bilstm, got 'lstm'"):
        small_classifier(sequence="lstm")


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
