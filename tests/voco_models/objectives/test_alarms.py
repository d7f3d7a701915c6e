"""Alarms of pretraining: broken runs are reported within 100 steps, healthy ones never are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.golden.stores import draw_volumes
from tests.support.small_finetune import grades_of
from tests.support.small_stores import make_store
from voco_data.store.reader import Store
from voco_models.networks.encoder import Projector
from voco_models.networks.teacher import Teacher
from voco_models.objectives import voco2d
from voco_models.objectives.alarms import PATIENCE, CollapseWatch
from voco_models.objectives.collapse import ConstantCosineLosses
from voco_models.objectives.crops import Boxes, TargetMode
from voco_models.objectives.signals import (
    AgreementSignals,
    Signals,
    WeightMovement,
    within_correlation,
)
from voco_models.stages.pretraining import PretrainSummary, pretrain
from voco_models.training import checkpoint

LOSSES = ConstantCosineLosses(at_zero=0.72, lowest=0.36, best_cosine=0.31)
Patch = Callable[[pytest.MonkeyPatch], None]


def pooled_correlation(r: np.ndarray, s: np.ndarray) -> float:
    """NumPy's own correlation, after the mean of each column is taken off."""
    return float(np.corrcoef((r - r.mean(0)).ravel(), (s - s.mean(0)).ravel())[0, 1])


def sums_of(r: np.ndarray, s: np.ndarray, parts: int = 1) -> Tensor:
    signals = AgreementSignals()
    for rows in np.array_split(np.arange(len(r)), parts):
        signals.add(torch.from_numpy(s[rows])[None], torch.from_numpy(r[rows])[None], torch.eye(3))
    taken = signals.take()
    assert taken is not None
    return taken.sums


@pytest.mark.parametrize("parts", [1, 7])
def test_the_correlation_is_that_within_base_crops(parts: int) -> None:
    rng = np.random.default_rng(0)
    r = rng.uniform(size=(50, 9)) * np.arange(9)
    s = 0.3 * r + rng.normal(size=r.shape) + 5 * np.arange(9)
    found = within_correlation(sums_of(r, s, parts))
    assert found == pytest.approx(pooled_correlation(r, s), abs=1e-12)


def test_the_mean_target_of_a_base_crop_is_no_correlation() -> None:
    rng = np.random.default_rng(0)
    r = rng.uniform(size=(40, 9)) * np.arange(9)
    learnt_nothing = np.broadcast_to(r.mean(0), r.shape).copy()
    assert np.corrcoef(r.ravel(), learnt_nothing.ravel())[0, 1] > 0.6
    assert within_correlation(sums_of(r, learnt_nothing)) == 0
    assert within_correlation(sums_of(r, np.full_like(r, 1 / 3))) == 0
    assert within_correlation(sums_of(r, r)) == pytest.approx(1)


@pytest.mark.parametrize(
    ("log_every", "rows"), [(1, 5), (5, 5), (20, 3), (25, 2), (50, 1), (99, 1)]
)
def test_a_sign_is_reported_within_100_steps_whatever_a_row_covers(
    log_every: int, rows: int
) -> None:
    watch = CollapseWatch(LOSSES, log_every=log_every)
    for number in range(1, rows + 1):
        assert watch.alarms == []
        watch({"step": float(number * log_every), "intra": 0.1, "rank": 1.0})
    assert len(watch.alarms) == 1
    assert rows * log_every <= 100


def test_a_weak_correlation_of_many_crops_is_none_of_no_relation() -> None:
    """The first rows of a run of `small` that learnt had 0.02, 0.05, 0.14 and 0.14."""
    rng = np.random.default_rng(0)
    for strength, alarmed in ((0.0, True), (0.09, False)):
        watch = CollapseWatch(LOSSES, log_every=25)
        for step in (25, 50, 75, 100):
            r = rng.normal(size=(600, 9))
            s = strength * r + rng.normal(size=r.shape)
            signals = Signals(sums_of(r, s), teacher_rank=5.0)
            watch({"step": float(step), "intra": 0.2, "rank": 5.0}, signals=signals)
        assert any("do not follow the targets" in alarm for alarm in watch.alarms) is alarmed


def test_signals_start_anew_when_taken() -> None:
    signals = AgreementSignals()
    assert signals.take() is None
    signals.add(torch.rand(1, 2, 9), torch.rand(1, 2, 9), torch.eye(9)[None])
    signals.add(torch.rand(1, 2, 9), torch.rand(1, 2, 9), torch.ones(1, 9, 4))
    first = signals.take()
    assert first is not None
    assert first.sums[0].tolist() == [4.0] * 9
    assert first.teacher_rank == pytest.approx((9 + 1) / 2)
    assert signals.take() is None


def test_movement_is_relative_to_the_norm() -> None:
    layer = torch.nn.Linear(40, 50, bias=False)
    still = torch.nn.Linear(2, 2)
    frozen = torch.nn.Linear(2, 2).requires_grad_(False)
    watch = WeightMovement({"layer": layer, "still": still, "frozen": frozen})
    with torch.no_grad():
        layer.weight.mul_(1.25)
    assert watch.measure() == pytest.approx({"layer": 0.25, "still": 0, "frozen": 0}, abs=1e-6)


def test_movement_is_judged_after_half_of_the_warm_up() -> None:
    watch = CollapseWatch(LOSSES, warmup_steps=400)
    still = {"backbone": 0.0, "projector": 0.1}
    for step in (50, 100, 199):
        watch({"step": step, "intra": 0.2, "rank": 9.0}, movement=still)
    assert watch.alarms == []
    watch({"step": 200, "intra": 0.2, "rank": 9.0}, movement=still)
    watch({"step": 201, "intra": 0.2, "rank": 9.0}, movement=still)
    (alarm,) = watch.alarms
    assert alarm.startswith("step 200: the weights of the backbone have hardly moved")


def test_a_loss_above_the_constant_level_is_judged_after_half_of_the_steps() -> None:
    watch = CollapseWatch(LOSSES, total_steps=400)
    for step in range(100, 200, 10):
        watch({"step": step, "intra": 0.45, "rank": 9.0})
    assert watch.alarms == []
    watch({"step": 200, "intra": 0.45, "rank": 9.0})
    (alarm,) = watch.alarms
    assert alarm.startswith("step 200: after half of the steps the intra loss is still above")


def test_few_crops_are_not_judged() -> None:
    unrelated = np.random.default_rng(0).uniform(size=(2, 5, 9))
    signals = Signals(sums_of(*unrelated), teacher_rank=9.0)
    watch = CollapseWatch(LOSSES)
    for step in range(100, 100 + 2 * PATIENCE):
        watch({"step": step, "intra": 0.2, "rank": 9.0}, signals=signals)
    assert watch.alarms == []


def dead(monkeypatch: pytest.MonkeyPatch) -> None:
    """The learning rate of this case is 1e-12; see `CHANGES`."""


def collapsed_teacher(monkeypatch: pytest.MonkeyPatch) -> None:
    forward = Teacher.forward
    monkeypatch.setattr(Teacher, "forward", lambda self, c: torch.ones_like(forward(self, c)))


def vanished_teacher(monkeypatch: pytest.MonkeyPatch) -> None:
    forward = Teacher.forward
    monkeypatch.setattr(Teacher, "forward", lambda self, c: torch.zeros_like(forward(self, c)))


def _shuffle(monkeypatch: pytest.MonkeyPatch, axis: int) -> None:
    overlap_targets = voco2d.overlap_targets

    def shuffled(random: Boxes, base: Boxes, mode: TargetMode = "overlap") -> Tensor:
        return overlap_targets(random, base, mode).roll(1, dims=axis)

    monkeypatch.setattr(voco2d, "overlap_targets", shuffled)


def targets_of_other_volumes(monkeypatch: pytest.MonkeyPatch) -> None:
    _shuffle(monkeypatch, 0)


def targets_of_other_crops(monkeypatch: pytest.MonkeyPatch) -> None:
    _shuffle(monkeypatch, 1)


def targets_of_other_base_crops(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another order of the base crops in each step; a fixed order could be learnt."""
    overlap_targets = voco2d.overlap_targets
    generator = torch.Generator().manual_seed(0)

    def shuffled(random: Boxes, base: Boxes, mode: TargetMode = "overlap") -> Tensor:
        return overlap_targets(random, base, mode)[..., torch.randperm(9, generator=generator)]

    monkeypatch.setattr(voco2d, "overlap_targets", shuffled)


def constant_projector(monkeypatch: pytest.MonkeyPatch) -> None:
    forward = Projector.forward

    def constant(self: Projector, features: Tensor) -> Tensor:
        embeddings = forward(self, features)
        return 0 * embeddings + torch.arange(embeddings.shape[-1])

    monkeypatch.setattr(Projector, "forward", constant)


BROKEN: dict[Patch, str] = {
    dead: "the weights of the backbone have hardly moved",
    collapsed_teacher: "the embeddings of the teacher have an effective rank below 1.5",
    vanished_teacher: "the embeddings of the teacher have an effective rank below 1.5",
    targets_of_other_volumes: "the cosines do not follow the targets",
    targets_of_other_crops: "the cosines do not follow the targets",
    targets_of_other_base_crops: "the cosines do not follow the targets",
    constant_projector: "the embeddings of the student have an effective rank below 1.5",
}
LIKE_ANOTHER = {targets_of_other_crops, targets_of_other_base_crops, vanished_teacher}
"""Cases that are reported as another one is."""
CHANGES = {dead: ["fit.lr=1e-12"]}


def make_cohort(root: Path, grid: tuple[int, int, int]) -> Store:
    return make_store(root, draw_volumes(grades_of(24, 1), grid), profile="alarms")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Crops of 32 px, one slice of each: `tiny` takes 10 ms a step."""
    return make_cohort(tmp_path_factory.mktemp("alarms"), (8, 96, 96))


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return make_cohort(tmp_path_factory.mktemp("alarms"), (32, 192, 192))


def train(store: Store, run: Path, changes: list[str], steps: int = 100) -> PretrainSummary:
    return pretrain(
        [store.path], run, recipe="tiny", changes=changes, device="cpu", max_steps=steps
    )


@pytest.mark.parametrize(
    "broken",
    [pytest.param(case, marks=pytest.mark.slow if case in LIKE_ANOTHER else ()) for case in BROKEN],
    ids=lambda case: case.__name__,
)
def test_a_broken_run_is_reported(
    broken: Patch,
    small: Store,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    broken(monkeypatch)
    steps = 30 if "effective rank" in BROKEN[broken] else 60 if broken is dead else 100
    summary = train(small, tmp_path / "run", CHANGES.get(broken, []), steps)
    assert any(BROKEN[broken] in alarm for alarm in summary.alarms), summary.alarms
    assert checkpoint.read_run(tmp_path / "run")["alarms"] == list(summary.alarms)
    reported = [r.getMessage() for r in caplog.records if r.getMessage().startswith("alarm: ")]
    assert reported == [f"alarm: {alarm}" for alarm in summary.alarms]
    assert len(set(reported)) == len(reported)


def test_healthy_runs_are_not_reported(small: Store, tmp_path: Path) -> None:
    assert train(small, tmp_path / "run", []).alarms == ()


def test_a_resumed_run_keeps_its_alarms_and_does_not_repeat_them(
    small: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    constant_projector(monkeypatch)
    first = train(small, tmp_path / "run", [], steps=30)
    assert first.alarms
    caplog.clear()
    resumed = pretrain(
        [small.path], tmp_path / "run", recipe="tiny", device="cpu", max_steps=60, resume=True
    )
    assert resumed.alarms[: len(first.alarms)] == first.alarms
    assert not any(alarm in caplog.text for alarm in first.alarms)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(10))
def test_ten_healthy_seeds_are_not_reported(seed: int, full: Store, tmp_path: Path) -> None:
    assert train(full, tmp_path / "run", [f"fit.seed={seed}"]).alarms == ()


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("broken", BROKEN, ids=lambda case: case.__name__)
def test_a_broken_run_of_full_size_is_reported(
    broken: Patch, full: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken(monkeypatch)
    summary = train(full, tmp_path / "run", CHANGES.get(broken, []))
    assert any(BROKEN[broken] in alarm for alarm in summary.alarms), summary.alarms
