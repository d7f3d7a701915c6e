"""The same objective with 3D encoders: losses by NumPy, gradients, the teacher, and learning."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn

from voco_data.store.spec import PRETRAIN
from voco_models.data.loader import Batch
from voco_models.data.window import input_window
from voco_models.networks.encoder import Backbone, EncoderOptions
from voco_models.networks.registry import FAMILIES, Family, create_encoder
from voco_models.networks.volume_encoder import VolumeEncoder
from voco_models.objectives.losses import LossOptions
from voco_models.objectives.voco2d import Voco2d, Voco2dConfig

WINDOW = input_window(None, PRETRAIN)
Array = npt.NDArray[np.float64]


def cosine(a: Array, b: Array) -> Array:
    """(n, m) cosines of the rows of `a` (n, D) and `b` (m, D)."""
    a, b = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (a, b))
    return a @ b.T


def minus_log(distance: Array) -> Array:
    """-log(1 - d), and its tangent at 1 - d = 0.01 below."""
    return np.where(
        distance <= 0.99,
        -np.log(np.maximum(1 - distance, 0.01)),
        -np.log(0.01) + (distance - 0.99) / 0.01,
    )


def agreement(s: Array, r: Array, options: LossOptions) -> float:
    """Equation 1 for one pair of volumes, cell by cell."""
    cells = minus_log(np.abs(r - s))
    if options.form == "plain":
        return float(cells.mean())
    free = r == 0
    zero = s[free] ** 2 if options.negatives == "square" else cells[free]
    positive = (r * cells).sum() / r.sum() if r.sum() > 1e-6 else 0.0
    return float(positive + (zero.mean() if free.any() else 0.0))


def losses_by_numpy(
    student: Array, teacher: Array, target: Array, n: int, options: LossOptions
) -> dict[str, float]:
    """The three losses of embeddings (B, n + m, D), the random crops first, and targets."""
    B = len(student)
    intra, inter, reg = [], [], []
    for i in range(B):
        s = cosine(student[i, :n], teacher[i, n:])
        if options.direction == "symmetric":
            s = (s + cosine(teacher[i, :n], student[i, n:])) / 2
        intra.append(agreement(s, target[i], options))
        others = [(i + 1) % B] if options.inter == "next" else [j for j in range(B) if j != i]
        for j in others:
            if options.inter_target == "overlap":
                between = cosine(student[i, :n], teacher[j, n:])
                inter.append(agreement(between, target[i], options))
            else:
                goal = np.clip(cosine(teacher[i, :n], teacher[j, n:]), 0, 1)
                inter.append(agreement(cosine(student[i, :n], student[j, n:]), goal, options))
        upper = cosine(student[i, n:], student[i, n:])[np.triu_indices(target.shape[2], 1)]
        squared = np.maximum(upper, 0) ** 2
        reg.append(squared.mean() if options.reg == "squared" else np.abs(upper).mean())
    parts = {"intra": np.mean(intra), "inter": np.mean(inter), "reg": np.mean(reg)}
    return {name: float(value) for name, value in parts.items()}


class Means(Backbone):
    """A 3D backbone whose map is (mean, 1): an embedding is a function of the mean of a crop."""

    def __init__(self) -> None:
        super().__init__("means", 1, 2)
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, images: Tensor) -> Tensor:
        mean = images.mean(dim=(2, 3, 4), keepdim=True) * self.scale
        return torch.cat([mean, torch.ones_like(mean)], dim=1)


OPTIONS = [
    LossOptions(),
    LossOptions(form="plain", reg="abs"),
    LossOptions(negatives="log", inter="all_pairs"),
    LossOptions(direction="symmetric"),
    LossOptions(inter="all_pairs", inter_target="overlap"),
]


@pytest.mark.parametrize("options", OPTIONS)
def test_losses_of_embeddings_that_are_known(options: LossOptions) -> None:
    """Volumes with a value for each base crop: a random crop's mean is that of its overlaps."""
    config = Voco2dConfig(grid=2, n_random=3, loss=options)
    encoder = VolumeEncoder(Means(), (16, 16), EncoderOptions())
    encoder.projector = nn.Identity()
    objective = Voco2d(encoder, (32, 32), config, WINDOW)
    values = np.array([[[0, 255], [51, 204]], [[255, 0], [102, 17]], [[34, 119], [221, 0]]])
    volumes = torch.from_numpy(values.repeat(16, axis=1).repeat(16, axis=2).astype(np.uint8))
    batch = Batch(volumes[:, None].repeat(1, 4, 1, 1), torch.arange(3), seed=3)
    parts = objective(batch)

    boxes = objective.draw(batch).random.corners.numpy()
    covered = np.zeros((3, 3, 2, 2))  # pixels of a base crop in a random crop
    for (i, k), (y, x) in ((index, boxes[index]) for index in np.ndindex(3, 3)):
        for pixel_y, pixel_x in np.ndindex(16, 16):
            covered[i, k, (y + pixel_y) // 16, (x + pixel_x) // 16] += 1
    target = covered.reshape(3, 3, 4) / 256
    normalised = values.reshape(3, 4) / 255 * 2 - 1
    means = np.concatenate([np.einsum("ikj,ij->ik", target, normalised), normalised], axis=1)
    embeddings = np.stack([means, np.ones_like(means)], axis=2)
    expected = losses_by_numpy(embeddings, embeddings, target, 3, options)
    for name, value in expected.items():
        assert parts[name].item() == pytest.approx(value, rel=1e-4, abs=1e-6), name
    assert parts["loss"].item() == pytest.approx(sum(expected.values()), rel=1e-4)
    assert 0 < (target == 0).sum() < target.size


def batch_of(n: int, slices: int, plane: tuple[int, int], seed: int = 5) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    volumes = torch.randint(0, 256, (n, slices, *plane), dtype=torch.uint8, generator=generator)
    return Batch(volumes, torch.arange(n), seed)


def objective_of(name: str, plane: tuple[int, int], **changes: Any) -> Voco2d:
    torch.manual_seed(0)
    config = replace(Voco2dConfig(projector_width=16, embedding=8), **changes)
    encoder = create_encoder(name, config.crop_plan(plane).size, config.encoder_options)
    return Voco2d(encoder, plane, config, WINDOW).train()


@pytest.mark.parametrize("options", OPTIONS)
def test_losses_of_a_resnet_are_those_of_its_embeddings(options: LossOptions) -> None:
    objective = objective_of("monai:resnet18", (48, 48), loss=options)
    with torch.no_grad():  # the teacher is another network, as after the first step
        for parameter in objective.teacher.parameters():
            parameter.mul_(1.3).add_(0.01)
    batch = batch_of(3, 4, (48, 48))
    parts = objective(batch)
    crops, target = objective.crops_and_targets(batch)
    assert crops.shape == (3, 11, 4, 16, 16)
    with torch.no_grad():
        student, teacher = (
            network(crops).numpy().astype(float)
            for network in (objective.student, objective.teacher)
        )
    expected = losses_by_numpy(student, teacher, target.numpy().astype(float), 2, options)
    for name, value in expected.items():
        assert parts[name].item() == pytest.approx(value, rel=1e-3, abs=1e-5), name
    assert expected["intra"] > 0.1


SIZES = {
    "monai:resnet18": (2, 1, (32, 32)),
    "monai:efficientnet_b0": (2, 32, (64, 64)),
    "monai:swin_b": (1, 32, (32, 64)),
}
"""Volumes, slices and plane of a small step. The map of each network has more than a voxel."""


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow if "swin" in n else ()) for n in SIZES]
)
def test_a_step_moves_the_student_and_the_teacher_follows(name: str) -> None:
    n, slices, plane = SIZES[name]
    loss = LossOptions(inter="next" if n > 1 else "off")
    grid = 2 if plane == (64, 64) else 1
    objective = objective_of(name, plane, grid=grid, n_random=1, loss=loss, momentum=0.75)
    before = {key: value.clone() for key, value in objective.student.state_dict().items()}
    objective(batch_of(n, slices, plane))["loss"].backward()
    for key, parameter in objective.student.named_parameters():
        assert parameter.grad is not None, key
    assert all(p.grad is None for p in objective.teacher.parameters())
    torch.optim.SGD(objective.student.parameters(), lr=0.1).step()
    objective.after_step(0.0)
    after, teacher = objective.student.state_dict(), objective.teacher.encoder.state_dict()
    changed = 0
    for key, value in teacher.items():
        if value.is_floating_point():
            expected = 0.75 * before[key] + 0.25 * after[key]
            torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-6, msg=key)
            changed += not torch.equal(before[key], after[key])
    assert changed > 20


class TwoConvolutions(Backbone):
    """A small 3D network."""

    def __init__(self, model: str, in_chans: int, pretrained: bool | Path) -> None:
        assert pretrained is False
        super().__init__(model, in_chans, num_features=32)
        widths = itertools.pairwise((in_chans, 16, 32))
        layers = [(nn.Conv3d(a, b, 3, 2, 1), nn.BatchNorm3d(b), nn.ReLU()) for a, b in widths]
        self.layers = nn.Sequential(*itertools.chain.from_iterable(layers))

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.layers(images)
        return features


@pytest.mark.parametrize(
    ("name", "lr"),
    [("small:", 1e-3), pytest.param("monai:resnet18", 2e-4, marks=pytest.mark.slow)],
)
def test_the_loss_falls(name: str, lr: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twelve steps on one batch. Of its two volumes, each place has a value of its own."""
    monkeypatch.setitem(
        FAMILIES, "small", Family(TwoConvolutions, VolumeEncoder, takes_volumes=True)
    )
    objective = objective_of(
        name, (48, 48), grid=2, projector_width=64, embedding=32, momentum=0.5, momentum_end=0.5
    )
    y, x = np.meshgrid(*(np.linspace(0, 1, 48),) * 2, indexing="ij")
    planes = [127 * y + 127 * x, 127 * y + 127 * (1 - x)]
    volumes = torch.from_numpy(np.stack(planes).astype(np.uint8))[:, None].repeat(1, 4, 1, 1)
    optimizer = torch.optim.AdamW(objective.student.parameters(), lr=lr)
    losses = []
    for _ in range(12):
        loss = objective(Batch(volumes, torch.arange(2), seed=0))["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        objective.after_step(0.0)
        losses.append(loss.item())
    assert np.mean(losses[-3:]) < 0.75 * np.mean(losses[:3])


@pytest.mark.parametrize("slices", [1, 5, 8, 9])
@pytest.mark.parametrize("stride", [1, 2, 3, 7, 13])
def test_every_number_of_slices_that_a_stride_can_give_is_known(slices: int, stride: int) -> None:
    config = Voco2dConfig(slice_stride=stride, grid=1, n_random=1)
    encoder = VolumeEncoder(Means(), (4, 4), EncoderOptions(projector_width=4, embedding=2))
    objective = Voco2d(encoder, (4, 4), config, WINDOW)
    volumes = torch.zeros(1, slices, 4, 4, dtype=torch.uint8)
    seen = {
        objective.crops_and_targets(Batch(volumes, torch.arange(1), seed))[0].shape[2]
        for seed in range(40)
    }
    assert seen == config.slice_counts(slices)


def test_numbers_of_slices_by_hand() -> None:
    assert Voco2dConfig(slice_stride=2).slice_counts(33) == {16, 17}
    assert Voco2dConfig(slice_stride=3).slice_counts(96) == {32}
    assert Voco2dConfig(slice_stride=50).slice_counts(32) == {1}
