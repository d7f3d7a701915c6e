"""The objective: inputs and gradients of both networks, and the updates of the teacher."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from voco_data.errors import InputError
from voco_data.store.spec import PRETRAIN
from voco_models.data.augment_crops import IntensityAugment
from voco_models.data.augment_planes import VolumeAugment
from voco_models.data.loader import Batch
from voco_models.data.window import input_window, normalise
from voco_models.networks.backbones import TINY_BACKBONE, TimmBackbone
from voco_models.networks.encoder import EncoderOptions, Projector, SliceEncoder
from voco_models.networks.registry import create_backbone, create_encoder
from voco_models.networks.teacher import Teacher
from voco_models.objectives.losses import (
    LossOptions,
    agreement_loss,
    cosines,
    inter_cosines,
    reg_loss,
)
from voco_models.objectives.voco2d import Voco2d, Voco2dConfig

WINDOW = input_window(None, PRETRAIN)
PLANE = (96, 96)
SMALL = Voco2dConfig(projector_width=16, embedding=8)


class Mean(nn.Module):
    """A backbone whose 1 x 1 map is (mean, 1): embeddings can be worked out by hand."""

    num_features = 2

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward_features(self, images: Tensor) -> Tensor:
        mean = images.mean(dim=(1, 2, 3)) * self.scale
        return torch.stack([mean, torch.ones_like(mean)], dim=1)[..., None, None]


def batch_of(n: int = 2, slices: int = 3, seed: int = 5) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    volumes = torch.randint(0, 256, (n, slices, *PLANE), dtype=torch.uint8, generator=generator)
    return Batch(volumes, torch.arange(n), seed)


def objective_of(**changes: Any) -> Voco2d:
    torch.manual_seed(0)
    config = replace(SMALL, **changes)
    crop_px = config.crop_plan(PLANE).size
    encoder = create_encoder(TINY_BACKBONE, crop_px, config.encoder_options)
    return Voco2d(encoder, PLANE, config, WINDOW).train()


@torch.no_grad()
def teacher_apart(objective: Voco2d) -> None:
    """Make the teacher another network than the student, as it is after the first step."""
    for parameter in objective.teacher.parameters():
        parameter.mul_(1.3).add_(0.01)


def test_the_loss_is_the_sum_of_its_parts_made_as_the_paper_says() -> None:
    objective = objective_of()
    teacher_apart(objective)
    batch = batch_of(3)
    parts = objective(batch)
    crops, target = objective.crops_and_targets(batch)
    student, teacher = objective.student(crops), objective.teacher(crops)
    intra = agreement_loss(cosines(student[:, :2], teacher[:, 2:]), target, LossOptions())
    inter = agreement_loss(
        inter_cosines(student[:, :2], student[:, 2:], "next"),
        inter_cosines(teacher[:, :2], teacher[:, 2:], "next").clamp(0, 1),
        LossOptions(),
    )
    torch.testing.assert_close(parts["intra"], intra)
    torch.testing.assert_close(parts["inter"], inter)
    own = agreement_loss(cosines(student[:, :2], student[:, 2:]), target, LossOptions())
    torch.testing.assert_close(parts["intra_student"], own)
    assert own != intra
    torch.testing.assert_close(parts["reg"], reg_loss(student[:, 2:], "squared"))
    torch.testing.assert_close(parts["loss"], parts["intra"] + parts["inter"] + parts["reg"])
    assert parts["nonfinite"] == 0
    assert 1 <= parts["rank"] <= 8


def test_crops_are_the_volumes_and_random_ones_lead() -> None:
    batch = batch_of()
    crops, target = objective_of().crops_and_targets(batch)
    assert crops.shape == (2, 11, 3, 32, 32)
    assert target.shape == (2, 2, 9)
    # Crop 2 is base crop 0; crop 6 is the centre of the 3 x 3 grid.
    assert torch.equal(crops[:, 2], normalise(batch.volumes[:, :, :32, :32], WINDOW))
    assert torch.equal(crops[:, 6], normalise(batch.volumes[:, :, 32:64, 32:64], WINDOW))
    # A random crop is that part of the volume which its overlaps say.
    row = target[1, 0].reshape(3, 3) * 32 * 32
    covered = [n for n in row.flatten().tolist() if n]
    assert sum(covered) == pytest.approx(32 * 32)


def test_the_step_is_a_function_of_weights_and_batch() -> None:
    first, again = (objective_of(slice_stride=2)(batch_of())["loss"] for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, objective_of(slice_stride=2)(batch_of(seed=6))["loss"])


def test_a_stride_uses_some_slices_and_in_time_all() -> None:
    objective = objective_of(slice_stride=3)
    ramp = torch.arange(7, dtype=torch.uint8)[None, :, None, None].expand(2, 7, *PLANE)
    seen = set()
    for seed in range(20):
        crops, _ = objective.crops_and_targets(Batch(ramp, torch.arange(2), seed))
        used = ((crops[0, 0, :, 0, 0] + 1) * 255 / 2).round().int().tolist()
        assert used in ([0, 3, 6], [1, 4], [2, 5])
        seen.update(used)
    assert seen == set(range(7))


def test_separate_slices_are_drawn_twice_and_are_equally_many() -> None:
    objective = objective_of(slice_stride=3, slices="separate")
    ramp = torch.arange(7, dtype=torch.uint8)[None, :, None, None].expand(2, 7, *PLANE)
    firsts = set()
    for seed in range(60):
        crops, target = objective.crops_and_targets(Batch(ramp, torch.arange(2), seed))
        assert crops.shape == (2, 11, crops.shape[2], 32, 32)
        assert target.shape == (2, 2, 9)
        used = ((crops[0, :, :, 0, 0] + 1) * 255 / 2).round().int()
        assert torch.equal(used[0], used[1])
        assert torch.equal(used[2:], used[2].expand(9, -1))
        firsts.add((used[0, 0].item(), used[2, 0].item()))
    assert firsts == {(a, b) for a in range(3) for b in range(3)}


@pytest.mark.parametrize("level", ["volume", "slice"])
@pytest.mark.parametrize("pairs", ["next", "all_pairs"])
def test_inter_targets_may_be_overlaps_of_places(level: str, pairs: str) -> None:
    options = LossOptions(inter=pairs, inter_target="overlap")  # type: ignore[arg-type]
    objective = objective_of(loss=options, level=level)
    teacher_apart(objective)
    batch = batch_of(3)
    crops, target = objective.crops_and_targets(batch)
    student, teacher = objective.student(crops), objective.teacher(crops)
    others = [(i, (i + 1) % 3) for i in range(3)]
    if pairs == "all_pairs":
        others = [(i, j) for i in range(3) for j in range(3) if i != j]
    losses = [
        agreement_loss(
            cosines(student[i, ..., :2, :], teacher[j, ..., 2:, :]),
            target[i].expand(*student.shape[1:-2], 2, 9),
            LossOptions(),
        )
        for i, j in others
    ]
    torch.testing.assert_close(objective(batch)["inter"], torch.stack(losses).mean())


ONE_SIDE = LossOptions(inter="all_pairs", inter_target="overlap", reg="off")


def test_the_student_may_embed_random_crops_only() -> None:
    objective = objective_of(loss=ONE_SIDE, student_crops="random")
    teacher_apart(objective)
    shapes: dict[str, list[tuple[int, ...]]] = {"student": [], "teacher": []}
    for name, network in (("student", objective.student), ("teacher", objective.teacher)):
        network.register_forward_pre_hook(
            lambda _module, inputs, name=name: shapes[name].append(tuple(inputs[0].shape))
        )
    batch = batch_of(3)
    parts = objective(batch)
    assert shapes == {"student": [(3, 2, 3, 32, 32)], "teacher": [(3, 9, 3, 32, 32)]}
    crops, target = objective.crops_and_targets(batch)
    random, base = objective.student(crops[:, :2]), objective.teacher(crops[:, 2:])
    torch.testing.assert_close(
        parts["intra"], agreement_loss(cosines(random, base), target, LossOptions())
    )
    torch.testing.assert_close(parts["loss"], parts["intra"] + parts["inter"])
    assert parts["reg"] == 0
    assert "intra_student" not in parts
    assert 1 <= parts["rank"] <= 6
    parts["loss"].backward()
    assert all(p.grad is None for p in objective.teacher.parameters())


@pytest.mark.parametrize(
    "loss",
    [
        replace(ONE_SIDE, reg="squared"),
        replace(ONE_SIDE, direction="symmetric"),
        replace(ONE_SIDE, inter_target="teacher"),
    ],
)
def test_a_loss_of_the_students_base_crops_needs_them(loss: LossOptions) -> None:
    with pytest.raises(InputError, match="student_crops = random needs"):
        Voco2dConfig(loss=loss, student_crops="random")
    Voco2dConfig(loss=replace(ONE_SIDE, inter="off"), student_crops="random")


def test_places_of_flipped_volumes_cannot_be_compared() -> None:
    between = LossOptions(inter_target="overlap")
    with pytest.raises(InputError, match="set flip_x"):
        Voco2dConfig(loss=between, volume_augment=VolumeAugment(flip_x=0.5))
    with pytest.raises(InputError, match="rotate_deg to 30 at most"):
        Voco2dConfig(loss=between, volume_augment=VolumeAugment(rotate_deg=31))
    Voco2dConfig(loss=between, volume_augment=VolumeAugment(flip_z=0.5, rotate_deg=10))
    off = replace(between, inter="off")
    Voco2dConfig(loss=off, volume_augment=VolumeAugment(flip_x=0.5))


def test_separate_slices_need_a_stride() -> None:
    with pytest.raises(InputError, match="slice_stride >= 2"):
        Voco2dConfig(slices="separate")
    with pytest.raises(InputError, match="shared or separate"):
        Voco2dConfig(slices="other")  # type: ignore[arg-type]


def test_a_stride_longer_than_the_volume_leaves_a_slice() -> None:
    crops, _ = objective_of(slice_stride=50).crops_and_targets(batch_of())
    assert crops.shape[2] == 1


def test_augmentation_changes_crops_but_not_targets() -> None:
    plain, target = objective_of().crops_and_targets(batch_of())
    augment = IntensityAugment(gamma=0.3, contrast=0.2, brightness=0.1, noise=0.05)
    changed, same = objective_of(augment=augment).crops_and_targets(batch_of())
    assert torch.equal(target, same)
    assert not torch.allclose(plain, changed)
    again, _ = objective_of(augment=augment).crops_and_targets(batch_of())
    assert torch.equal(changed, again)


def test_volume_level_averages_features_over_slices_before_the_projector() -> None:
    options = EncoderOptions(projector_width=4, embedding=3)
    encoder = SliceEncoder(TimmBackbone("mean", Mean(), 1), (4, 4), options).train()
    encoder.projector = nn.Identity()  # type: ignore[assignment]
    crops = torch.rand(2, 11, 5, 4, 4)
    expected = torch.stack([crops.mean(dim=(2, 3, 4)), torch.ones(2, 11)], dim=-1)
    torch.testing.assert_close(encoder(crops), expected)


def test_slice_level_has_an_embedding_for_every_slice() -> None:
    options = EncoderOptions(level="slice")
    encoder = SliceEncoder(TimmBackbone("mean", Mean(), 1), (4, 4), options).train()
    encoder.projector = nn.Identity()  # type: ignore[assignment]
    crops = torch.rand(2, 11, 5, 4, 4)
    embeddings = encoder(crops)
    assert embeddings.shape == (2, 5, 11, 2)
    torch.testing.assert_close(embeddings[..., 0], crops.mean(dim=(3, 4)).transpose(1, 2))


def test_slice_level_is_the_mean_of_the_losses_of_slices() -> None:
    objective = objective_of(level="slice")
    batch = batch_of()
    crops, target = objective.crops_and_targets(batch)
    student, teacher = objective.student(crops), objective.teacher(crops)
    by_slice = [
        agreement_loss(cosines(student[:, z, :2], teacher[:, z, 2:]), target, LossOptions())
        for z in range(3)
    ]
    torch.testing.assert_close(objective(batch)["intra"], torch.stack(by_slice).mean())


@pytest.mark.parametrize(("feature", "width"), [("map", 256 * 4), ("gap", 256)])
def test_the_projector_has_the_width_of_the_features(feature: Any, width: int) -> None:
    encoder = SliceEncoder(
        create_backbone(TINY_BACKBONE), (64, 64), EncoderOptions(feature=feature)
    )
    first = encoder.projector.layers[0]
    assert isinstance(first, nn.Linear)
    assert (first.in_features, first.out_features) == (width, 2048)
    assert encoder.projector.layers[-1].out_features == 2048


def test_crops_can_be_resized_before_the_backbone() -> None:
    encoder = SliceEncoder(create_backbone(TINY_BACKBONE), (96, 96), EncoderOptions(encode_px=64))
    first = encoder.projector.layers[0]
    assert isinstance(first, nn.Linear)
    assert first.in_features == 256 * 4
    assert encoder(torch.rand(1, 2, 2, 96, 96)).shape == (1, 2, 2048)


def test_projector_batch_norm_runs_over_all_rows() -> None:
    projector = Projector(3, width=5, out_features=2).train()
    rows = torch.randn(4, 6, 3)
    flat = projector(rows.reshape(24, 3))
    assert projector(rows).shape == (4, 6, 2)
    torch.testing.assert_close(projector(rows), flat.reshape(4, 6, 2))
    inner = projector.layers[:2](rows.reshape(24, 3))
    torch.testing.assert_close(inner.mean(0), torch.zeros(5), atol=1e-5, rtol=0)


def test_the_teacher_gets_no_gradient_and_the_student_gets_one_everywhere() -> None:
    objective = objective_of()
    objective(batch_of())["loss"].backward()
    assert all(p.grad is None and not p.requires_grad for p in objective.teacher.parameters())
    for name, parameter in objective.student.named_parameters():
        assert parameter.grad is not None, name
    trained = objective.parameter_groups()[0]["params"]
    assert len(trained) == len(list(objective.student.parameters()))


def test_the_teacher_is_the_closed_form_average_after_two_steps() -> None:
    objective = objective_of(momentum=0.9, momentum_end=0.9)
    optimizer = torch.optim.SGD(objective.student.parameters(), lr=0.5)

    def snapshot(module: nn.Module) -> dict[str, Tensor]:
        return {name: value.clone() for name, value in module.state_dict().items()}

    students = [snapshot(objective.student)]
    for step in (1, 2):
        optimizer.zero_grad()
        objective(batch_of(seed=step))["loss"].backward()
        optimizer.step()
        students.append(snapshot(objective.student))
        objective.after_step(step / 10)
    buffers = 0
    for name, value in objective.teacher.encoder.state_dict().items():
        zero, one, two = (student[name] for student in students)
        if value.is_floating_point():
            torch.testing.assert_close(value, 0.81 * zero + 0.09 * one + 0.1 * two, msg=name)
        else:
            assert torch.equal(value, two), name
        buffers += "running_mean" in name and not torch.equal(zero, two)
    assert buffers > 2


def test_momentum_can_be_scheduled() -> None:
    objective = objective_of(momentum=0.5, momentum_end=1.0)
    weight = next(objective.student.parameters())
    follower = next(objective.teacher.parameters())
    with torch.no_grad():
        weight.fill_(1)
        follower.fill_(0)
    objective.after_step(0.5)  # half way: momentum 0.75
    torch.testing.assert_close(follower, torch.full_like(follower, 0.25))
    objective.after_step(1.0)  # at the end it stays
    torch.testing.assert_close(follower, torch.full_like(follower, 0.25))


def test_the_teacher_normalises_with_the_batch_and_keeps_its_statistics() -> None:
    encoder = create_encoder(
        TINY_BACKBONE, (32, 32), EncoderOptions(projector_width=8, embedding=4)
    )
    teacher = Teacher(encoder).train()
    before = {n: b.clone() for n, b in teacher.named_buffers() if "running" in n}
    crops = torch.rand(2, 3, 2, 32, 32)
    torch.testing.assert_close(teacher(crops), encoder.train()(crops))
    for name, buffer in teacher.named_buffers():
        if "running" in name:
            assert torch.equal(buffer, before[name]), name


def test_the_legacy_teacher_trains_its_projector_and_averages_the_backbone_s_weights() -> None:
    objective = objective_of(teacher="legacy", momentum=0.5, momentum_end=0.5)
    objective(batch_of())["loss"].backward()
    encoder = objective.teacher.encoder
    assert all(p.grad is not None for p in encoder.projector.parameters())
    assert all(p.grad is None for p in encoder.backbone.parameters())
    with torch.no_grad():
        for parameter in objective.student.parameters():
            parameter.add_(1)
    kept = [p.clone() for p in encoder.projector.parameters()]
    wanted = [p + 0.5 for p in encoder.backbone.parameters()]
    buffers = [b.clone() for b in encoder.backbone.buffers()]
    objective.after_step(0.1)
    for now, then in zip(encoder.projector.parameters(), kept, strict=True):
        assert torch.equal(now, then)
    for now, then in zip(encoder.backbone.parameters(), wanted, strict=True):
        torch.testing.assert_close(now, then)
    for now, then in zip(encoder.backbone.buffers(), buffers, strict=True):
        assert torch.equal(now, then)


def test_symmetric_uses_the_mean_of_both_cosines() -> None:
    objective = objective_of(loss=LossOptions(direction="symmetric"))
    teacher_apart(objective)
    crops, target = objective.crops_and_targets(batch_of())
    student, teacher = objective.student(crops), objective.teacher(crops)
    both = cosines(student[:, :2], teacher[:, 2:]) + cosines(teacher[:, :2], student[:, 2:])
    expected = agreement_loss(both / 2, target, LossOptions())
    torch.testing.assert_close(objective(batch_of())["intra"], expected)


@pytest.mark.parametrize(
    "options",
    [
        LossOptions(form="plain"), LossOptions(negatives="log"), LossOptions(legacy_clamp=True),
        LossOptions(inter="all_pairs"), LossOptions(reg="abs"), LossOptions(direction="symmetric"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("level", ["volume", "slice"])
def test_every_option_trains(options: LossOptions, level: Any) -> None:
    parts = objective_of(loss=options, level=level, target="iou")(batch_of())
    parts["loss"].backward()
    assert parts["loss"].isfinite()
    assert parts["intra"] > 0


def test_what_is_off_is_zero() -> None:
    parts = objective_of(loss=LossOptions(inter="off", reg="off"))(batch_of(1))
    assert parts["inter"] == parts["reg"] == 0
    assert torch.equal(parts["loss"], parts["intra"])


def test_the_inter_volume_loss_needs_two_volumes() -> None:
    with pytest.raises(InputError, match="at least 2 volumes"):
        objective_of()(batch_of(1))


def test_cosines_that_are_not_finite_are_counted() -> None:
    objective = objective_of()
    with torch.no_grad():
        next(objective.student.parameters()).fill_(torch.nan)
    parts = objective(batch_of())
    assert parts["nonfinite"] == 2 * 2 * 9
    assert parts["loss"].isnan()


def test_checkpoints_hold_student_and_teacher_and_not_the_grid() -> None:
    names = objective_of().state_dict()
    assert {name.split(".")[0] for name in names} == {"student", "teacher"}


@pytest.mark.parametrize(
    "wrong",
    [
        {"momentum": 1.5}, {"slice_stride": 0}, {"encode_px": 0}, {"target": "dice"},
        {"level": "voxel"}, {"feature": "cls"}, {"teacher": "none"}, {"embedding": 0},
    ],
)  # fmt: skip
def test_an_invalid_config_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="recipe"):
        replace(SMALL, **wrong)
