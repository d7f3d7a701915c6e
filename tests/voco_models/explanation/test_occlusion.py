"""Effects of slices, beside those of volumes that were changed and predicted one by one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from voco_data.errors import InputError
from voco_models.explanation.occlusion import Replacement, replace_slices, slice_effects
from voco_models.networks import HeadOptions, SliceSequenceClassifier, create_backbone, heads

SLICES, SIZE = 5, 32


def small_classifier(head: str, pooling: str = "mean", seed: int = 0) -> SliceSequenceClassifier:
    torch.manual_seed(seed)
    model = SliceSequenceClassifier(
        create_backbone("test_byobnet"),
        SIZE,
        head=head,
        options=HeadOptions(hidden=8),
        pooling=pooling,  # type: ignore[arg-type]
        feature_norm="none" if pooling == "stages" else "batch",
    )
    return model.eval()


def volume() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    inputs = 2 * torch.rand(1, SLICES, SIZE, SIZE, generator=generator) - 1
    return inputs, torch.linspace(180, 20, SLICES)[None]


@pytest.mark.parametrize(
    ("head", "pooling"),
    [
        ("bilstm", "mean"),
        ("bilstm", "quadrants"),
        ("transformer", "mean"),
        ("organ_queries", "stages"),
    ],
)
@pytest.mark.parametrize("replacement", ["neighbours", "lowest"])
def test_effects_are_those_of_changed_volumes(
    head: str, pooling: str, replacement: Replacement, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heads, "VALUES_PER_CALL", 1)  # several calls of the head
    model, (inputs, depths) = small_classifier(head, pooling), volume()
    effects = slice_effects(model, inputs, depths, replacement)
    assert set(effects) == {"kidney", "liver", "spleen"}
    for z in range(SLICES):
        changed = inputs.clone()
        beside = [i for i in (z - 1, z + 1) if 0 <= i < SLICES]
        changed[0, z] = -1.0 if replacement == "lowest" else inputs[0, beside].mean(dim=0)
        with torch.no_grad():
            before, after = model(inputs, depths), model(changed, depths)
        for name, effect in effects.items():
            expected = after[name].softmax(1)[0, 0] - before[name].softmax(1)[0, 0]
            torch.testing.assert_close(effect[z], expected, atol=1e-6, rtol=0)


def test_a_slice_that_changes_nothing_has_no_effect() -> None:
    inputs = torch.zeros(1, SLICES, SIZE, SIZE)  # every slice is the mean of its neighbours
    effects = slice_effects(small_classifier("bilstm"), inputs, None, "neighbours")
    for effect in effects.values():
        torch.testing.assert_close(effect, torch.zeros(SLICES), atol=1e-6, rtol=0)


def test_the_ends_have_one_neighbour() -> None:
    inputs = torch.tensor([1.0, 5.0, 6.0]).reshape(1, 3, 1, 1)
    assert replace_slices(inputs, "neighbours").flatten().tolist() == [5.0, 3.5, 5.0]


def test_a_single_slice_and_training_mode_are_refused() -> None:
    model, (inputs, depths) = small_classifier("bilstm"), volume()
    with pytest.raises(InputError, match="two slices"):
        slice_effects(model, inputs[:, :1], depths, "neighbours")
    with pytest.raises(ValueError, match="evaluation mode"):
        slice_effects(model.train(), inputs, depths, "lowest")
