"""The classifier and its parts: what is seen, what is changed, what is minimised."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tests.support.small_stores import make_store, random_volumes
from voco_data.errors import InputError
from voco_data.labels.table import ORGANS
from voco_data.store.spec import FINETUNE
from voco_models.data.augment3d import Augmentation, X, Y, Z, apply_draws
from voco_models.data.loader import Batch
from voco_models.data.volume_view import ReducedVolumes, VolumeView, average
from voco_models.data.window import Contrast, contrast_of
from voco_models.evaluation import metrics
from voco_models.networks.backbones import TINY_BACKBONE, create_backbone
from voco_models.networks.classifier import (
    ClassificationObjective,
    SliceSequenceClassifier,
    loss_weights,
    predict,
    weighted_cross_entropy,
)
from voco_models.stages.finetune_recipes import FINETUNE_RECIPES, finetune_recipe

WEIGHTS = (1.0, 2.0, 4.0)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def small_classifier(**options: object) -> SliceSequenceClassifier:
    torch.manual_seed(0)
    backbone = create_backbone(TINY_BACKBONE)
    return SliceSequenceClassifier(backbone, hidden=8, **options)  # type: ignore[arg-type]


# What is seen


def test_average_is_the_mean_of_blocks() -> None:
    volume = np.random.default_rng(0).integers(0, 256, (1, 6, 4, 8), np.uint8)
    blocks = volume.reshape(1, 3, 2, 2, 2, 4, 2).mean(axis=(2, 4, 6))
    found = average(torch.from_numpy(volume), (3, 2, 4)).numpy()
    assert np.abs(found - blocks).max() <= 0.5


def test_subsample_takes_every_second_slice_and_the_middle_window() -> None:
    volume = torch.arange(8 * 6 * 6).reshape(1, 8, 6, 6).to(torch.uint8)
    view = VolumeView(slices=4, size_px=4, reduce="subsample")
    assert torch.equal(view.middle(volume), volume[:, 0:8:2, 1:5, 1:5])


def test_random_windows_cover_every_start_and_repeat_by_seed() -> None:
    ramp = torch.arange(8)[:, None, None] * 16 + torch.arange(4)[None, :, None] * 4
    volume = (ramp + torch.arange(4)).to(torch.uint8)[None].expand(200, -1, -1, -1)
    view = VolumeView(slices=4, size_px=3, reduce="subsample")
    found = view.random(volume, generator())
    corners = {int(v) for v in found[:, 0, 0, 0]}
    assert corners == {16 * z + 4 * y + x for z in (0, 1) for y in (0, 1) for x in (0, 1)}
    assert torch.equal(found, view.random(volume, generator()))


def test_a_view_larger_than_the_grid_is_refused() -> None:
    view = VolumeView(slices=4, size_px=8, reduce="average")
    view.check((4, 8, 8))
    with pytest.raises(InputError, match=r"\(3, 8, 8\) has fewer"):
        view.check((3, 8, 8))


def test_reduced_volumes_read_once(tmp_path: object) -> None:
    volumes = random_volumes(2, (4, 8, 8))
    store = make_store(tmp_path, volumes)  # type: ignore[arg-type]
    reduced = ReducedVolumes(store, (2, 4, 4))
    expected = average(torch.from_numpy(volumes), (2, 4, 4)).numpy()
    out = np.empty((2, 4, 4), np.uint8)
    reduced.read(1, out=out)
    np.testing.assert_array_equal(out, expected[1])
    (store.path / "volumes/c/1/0/0/0").unlink()
    np.testing.assert_array_equal(reduced.read(1), expected[1])
    reduced.read(1)[...] = 0  # the caller's copy
    np.testing.assert_array_equal(reduced.read(1), expected[1])


def test_contrast_shows_the_asked_window() -> None:
    contrast = contrast_of((0.0, 200.0), FINETUNE)  # the store keeps -150 to 250 HU
    stored = torch.tensor([0, 95, 96, 159, 223, 255], dtype=torch.uint8)
    hu = stored.double().numpy() / 255 * 400 - 150
    np.testing.assert_allclose(contrast.unit(stored), np.clip(hu / 200, 0, 1), atol=1e-6)


def test_no_window_is_all_of_the_stores() -> None:
    stored = torch.tensor([0, 51, 255], dtype=torch.uint8)
    np.testing.assert_allclose(contrast_of(None, FINETUNE).unit(stored), [0, 0.2, 1], rtol=1e-6)


@pytest.mark.parametrize("window", [(-200.0, 100.0), (0.0, 300.0), (100.0, 100.0)])
def test_a_window_that_the_store_lacks_is_refused(window: tuple[float, float]) -> None:
    with pytest.raises(InputError, match="the store keeps -150 to 250 HU"):
        contrast_of(window, FINETUNE)


def test_an_impossible_contrast_is_refused() -> None:
    with pytest.raises(InputError, match="0 <= low < high <= 255"):
        Contrast(9, 9)


# What is changed


def test_no_augmentation_changes_nothing() -> None:
    volumes = torch.rand(3, 4, 6, 6)
    assert torch.equal(apply_draws(volumes, Augmentation().draw(3, generator())), volumes)


@pytest.mark.parametrize(("field", "axis"), [("flip_z", Z), ("flip_y", Y), ("flip_x", X)])
def test_flips_turn_their_axis(field: str, axis: int) -> None:
    volumes = torch.rand(2, 4, 6, 6)
    draws = Augmentation(**{field: 1.0}).draw(2, generator())  # type: ignore[arg-type]
    assert torch.equal(apply_draws(volumes, draws), volumes.flip(axis))


def test_quarter_turns_are_in_plane() -> None:
    volumes = torch.rand(20, 4, 6, 6)
    found = apply_draws(volumes, Augmentation(rot90=1.0).draw(20, generator()))
    turns = [
        next(k for k in range(4) if torch.equal(f, torch.rot90(v, k, (1, 2))))
        for f, v in zip(found, volumes, strict=True)
    ]
    assert set(turns) == {1, 2, 3}


def test_gamma_and_brightness_stay_in_range() -> None:
    volumes = torch.rand(8, 2, 4, 4)
    found = apply_draws(volumes, Augmentation(log_gamma=0.5).draw(8, generator()))
    exponents = (found.log() / volumes.log()).flatten(1)
    assert (exponents.std(dim=1) < 1e-3).all()  # one exponent a volume
    assert math.exp(-0.5) <= exponents.min() < exponents.max() <= math.exp(0.5)
    bright = apply_draws(volumes, Augmentation(brightness=0.9).draw(8, generator()))
    assert bright.min() >= 0
    assert bright.max() <= 1


def test_cutout_is_one_box() -> None:
    augmentation = Augmentation(cutout=1.0, cutout_fraction=0.5)
    found = apply_draws(torch.ones(10, 4, 8, 8), augmentation.draw(10, generator()))
    for volume in found:
        z, y, x = (volume == 0).nonzero().unbind(dim=1)
        assert len(z) == 2 * 4 * 4
        assert [int(i.max() - i.min()) + 1 for i in (z, y, x)] == [2, 4, 4]


def test_shift_moves_all_slices_alike() -> None:
    draws = Augmentation(shift=0.25).draw(1, generator())
    draws.shift[:] = torch.tensor([[0.25, -0.25]])  # y, x: the content moves by the opposite
    volume = torch.zeros(1, 3, 8, 8)
    volume[:, :, 4, 4] = 1
    found = apply_draws(volume, draws)
    assert found[0].argmax(dim=0)[2, 6] == 0
    assert torch.allclose(found[0, :, 2, 6], torch.ones(3))
    assert found.sum() == pytest.approx(3.0)


def test_shift_along_z_repeats_the_end() -> None:
    draws = Augmentation(shift_z=0.5).draw(1, generator())
    draws.shift_z[:] = 0.5
    volume = torch.arange(4.0)[None, :, None, None].expand(1, 4, 2, 2) / 4
    found = apply_draws(volume, draws)[0, :, 0, 0] * 4
    assert found.tolist() == [0, 0, 0, 1]


def test_augmentation_repeats_by_seed() -> None:
    augmentation = FINETUNE_RECIPES["tiny"].augmentation
    volumes = torch.rand(2, 4, 8, 8)
    one, two = (apply_draws(volumes, augmentation.draw(2, generator(3))) for _ in range(2))
    assert torch.equal(one, two)
    assert not torch.equal(one, apply_draws(volumes, augmentation.draw(2, generator(4))))


# What is minimised


def test_loss_of_an_epoch_is_the_score() -> None:
    rng = np.random.default_rng(0)
    grades = torch.from_numpy(rng.integers(3, size=(40, 3)))
    logits = torch.from_numpy(rng.normal(size=(40, 3, 3))).float()
    weights = loss_weights(grades, WEIGHTS)
    batches = [
        weighted_cross_entropy(logits[i : i + 4], grades[i : i + 4], weights)
        for i in range(0, 40, 4)
    ]
    chances = logits.softmax(dim=-1).numpy()
    expected = [
        metrics.weighted_log_loss(chances[:, i], grades[:, i].numpy(), WEIGHTS)
        for i in range(len(ORGANS))
    ]
    np.testing.assert_allclose(torch.stack(batches).mean(dim=0), expected, rtol=1e-5)


def test_weights_by_hand() -> None:
    grades = torch.tensor([[0, 2, 1], [0, 0, 1]])
    weights = loss_weights(grades, WEIGHTS)
    expected = [[1, 2, 4], [0.4, 0.8, 1.6], [0.5, 1, 2]]
    np.testing.assert_allclose(weights, expected, rtol=1e-6)


@pytest.mark.parametrize("pooling", ["mean", "quadrants"])
def test_shapes_and_calls(pooling: str) -> None:
    volumes = torch.rand(2, 5, 64, 64)
    whole = small_classifier(pooling=pooling).eval()
    parts = small_classifier(pooling=pooling, images_per_call=3).eval()
    with torch.inference_mode():
        logits = whole(volumes)
        assert logits.shape == (2, 3, 3)
        torch.testing.assert_close(parts(volumes), logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("feature_norm", ["none", "batch"])
def test_max_mean_also_hears_the_slices_that_are_not_strongest(feature_norm: str) -> None:
    grown = {}
    for over in ("max", "max_mean"):
        classifier = small_classifier(over_slices=over, feature_norm=feature_norm).eval()
        seen = torch.rand(1, 6, classifier.sequence.num_features, requires_grad=True)
        classifier.slice_features = lambda volumes: volumes  # type: ignore[method-assign]
        classifier.sequence = torch.nn.Identity()  # type: ignore[assignment]
        classifier(seen).sum().backward()
        assert seen.grad is not None
        grown[over] = int((seen.grad != 0).sum())
    assert grown == {"max": 16, "max_mean": 6 * 16}


def test_a_patient_does_not_depend_on_its_neighbours() -> None:
    classifier = small_classifier().eval()
    volumes = torch.rand(3, 4, 64, 64)
    with torch.inference_mode():
        together, alone = classifier(volumes), classifier(volumes[1:2])
    torch.testing.assert_close(together[1:2], alone, rtol=1e-4, atol=1e-5)


def test_every_slice_can_decide() -> None:
    classifier = small_classifier().eval()
    volumes = torch.rand(1, 4, 64, 64, requires_grad=True)
    classifier.slice_features(volumes).square().sum().backward()
    assert volumes.grad is not None
    assert (volumes.grad.abs().amax(dim=(2, 3)) > 0).all()


def test_flipped_views_are_averaged() -> None:
    classifier = small_classifier().eval()
    view = VolumeView(slices=4, size_px=64, reduce="average")
    volumes = torch.randint(0, 256, (2, 4, 64, 64), dtype=torch.uint8)
    plain = predict(classifier, view, volumes)
    turned = predict(classifier, view, volumes.flip(X))
    both = predict(classifier, view, volumes, ((), (X,)))
    torch.testing.assert_close(both, (plain + turned) / 2)
    torch.testing.assert_close(plain.sum(dim=-1), torch.ones(2, 3))
    assert not torch.allclose(plain, turned)


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
    objective = ClassificationObjective(
        classifier, view, Augmentation(log_gamma=0.1), loss_weights(grades, WEIGHTS)
    )
    optimizer = torch.optim.AdamW(objective.parameters(), lr=5e-3)
    losses = []
    for step in range(60):
        parts = objective(Batch(volumes, torch.arange(8), seed=step, targets=grades))
        losses.append(float(parts["loss"].detach()))
        optimizer.zero_grad()
        parts["loss"].backward()
        optimizer.step()
    assert set(parts) == {"loss", *ORGANS}
    assert losses[-1] < 0.2 * losses[0]


# Recipes


@pytest.mark.parametrize("name", sorted(FINETUNE_RECIPES))
def test_recipes_can_be_built(name: str) -> None:
    recipe = finetune_recipe(name)
    assert recipe.name == name
    recipe.view.check((96, 256, 256))
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
