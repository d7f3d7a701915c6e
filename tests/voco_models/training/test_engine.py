"""The training loop: exact resume, the history, monitors, and no checkpoint of a bad state."""

from __future__ import annotations

import itertools
import math
import os
import random
import signal
import threading
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from voco_data.errors import InputError, VocoError
from voco_data.storage import locks
from voco_models.data.loader import Batch
from voco_models.data.sampling import step_seed
from voco_models.networks.teacher import cosine_schedule
from voco_models.training import checkpoint
from voco_models.training.engine import FitSummary, choose_device, fit
from voco_models.training.fit_config import FitConfig
from voco_models.training.history import HISTORY, read_history
from voco_models.training.objective import Objective
from voco_models.training.step import warmup_cosine
from voco_models.training.train_state import Diverged, TrainState

CPU = torch.device("cpu")
CONFIG = FitConfig(
    total_steps=20, lr=0.05, weight_decay=0.01, warmup_steps=4, amsgrad=True, log_every=4,
    checkpoint_every=5, seed=3,
)  # fmt: skip
PROVENANCE: dict[str, Any] = {"stage": "toy", "recipe": {"lr": 0.05}}


class ToySource:
    """Batches of 4 volumes that are a function of the step."""

    def batches_from(self, step: int) -> Generator[Batch, None, None]:
        for number in itertools.count(step):
            generator = torch.Generator().manual_seed(number)
            volumes = torch.randint(0, 256, (4, 2, 3, 3), dtype=torch.uint8, generator=generator)
            yield Batch(volumes, torch.arange(4), step_seed(0, number))


class Toy(Objective):
    """Regression with all that a resume can forget: buffers, dropout, an average, a generator."""

    average: Tensor

    def __init__(self, *, poison_at: int | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(
            nn.Linear(18, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 1)
        )
        self.register_buffer("average", torch.zeros(8, 18))
        self.poison_at = poison_at
        self.calls = 0
        self.progress: list[float] = []

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        self.calls += 1
        noise = torch.rand((), generator=torch.Generator().manual_seed(batch.seed))
        x = batch.volumes.float().flatten(1) / 255
        loss = (self.net(x)[:, 0] - x.mean(1)).square().mean()
        if self.calls == self.poison_at:
            loss = loss * math.nan
        return {"loss": loss + 0.01 * noise, "noise": noise, "memory": self.average.abs().sum()}

    def after_step(self, progress: float) -> None:
        self.progress.append(progress)
        weight = self.net[0].weight
        assert isinstance(weight, Tensor)
        self.average.lerp_(weight.detach(), 0.1)


def run(out: Path, objective: Objective | None = None, **options: Any) -> FitSummary:
    settings: dict[str, Any] = {"out": out, "device": CPU, "provenance": PROVENANCE, **options}
    config = settings.pop("config", CONFIG)
    return fit(objective or Toy(), ToySource(), config, **settings)


def curve(out: Path) -> list[dict[str, float]]:
    """The history without its clock."""
    return [{k: v for k, v in row.items() if k != "seconds"} for row in read_history(out)]


def saved(out: Path) -> dict[str, Any]:
    """The checkpoint without its clock."""
    payload = checkpoint.load(out / checkpoint.CHECKPOINT)
    del payload["seconds"]
    is_clock = [name == "seconds" for name in payload["history"]["columns"]]
    payload["history"]["values"] = payload["history"]["values"][:, ~torch.tensor(is_clock)]
    return payload


def assert_equal_states(one: Any, other: Any) -> None:
    assert type(one) is type(other)
    if isinstance(one, Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert list(one) == list(other)
        for key, value in one.items():
            assert_equal_states(value, other[key])
    elif isinstance(one, list):
        for left, right in zip(one, other, strict=True):
            assert_equal_states(left, right)
    else:
        assert one == other


@pytest.mark.parametrize("stops", [(5,), (7,), (8,), (1, 2, 19), (20,)])
def test_a_resumed_run_is_the_same_to_the_bit(tmp_path: Path, stops: tuple[int, ...]) -> None:
    run(tmp_path / "whole")
    for number, stop in enumerate(stops):
        # A fresh objective each time: everything must come from the checkpoint.
        run(tmp_path / "parts", max_steps=stop, resume=number > 0)
    summary = run(tmp_path / "parts", resume=True)
    assert summary.finished
    assert summary.first_step == stops[-1]
    assert curve(tmp_path / "parts") == curve(tmp_path / "whole")
    assert_equal_states(saved(tmp_path / "parts"), saved(tmp_path / "whole"))


def test_a_killed_run_is_the_same_to_the_bit(tmp_path: Path) -> None:
    """Killed at step 13: the checkpoint is of step 10, the history goes to step 12."""

    class Killed(Exception):
        pass

    class Dies(Toy):
        def forward(self, batch: Batch) -> dict[str, Tensor]:
            if self.calls == 13:
                raise Killed
            return super().forward(batch)

    run(tmp_path / "whole")
    with pytest.raises(Killed):
        run(tmp_path / "parts", Dies())
    assert saved(tmp_path / "parts")["step"] == 10
    assert [row["step"] for row in curve(tmp_path / "parts")] == [4, 8, 12]
    run(tmp_path / "parts", resume=True)
    assert curve(tmp_path / "parts") == curve(tmp_path / "whole")
    assert_equal_states(saved(tmp_path / "parts"), saved(tmp_path / "whole"))


def test_training_lowers_the_loss_and_rows_are_means(tmp_path: Path) -> None:
    class Recording(Toy):
        losses: list[float] = []  # noqa: RUF012

        def forward(self, batch: Batch) -> dict[str, Tensor]:
            parts = super().forward(batch)
            self.losses.append(parts["loss"].item())
            return parts

    run(tmp_path, Recording())
    rows = curve(tmp_path)
    assert [row["step"] for row in rows] == [4, 8, 12, 16, 20]
    means = np.asarray(Recording.losses).reshape(5, 4).mean(1)
    np.testing.assert_allclose([row["loss"] for row in rows], means, rtol=1e-6)
    assert rows[-1]["loss"] < 0.5 * rows[0]["loss"]


def test_the_history_has_the_rate_of_its_last_step(tmp_path: Path) -> None:
    run(tmp_path)
    expected = [0.05 * warmup_cosine(step, total=20, warmup=4) for step in (3, 7, 11, 15, 19)]
    assert [row["lr"] for row in read_history(tmp_path)] == expected


def test_stopping_early_keeps_the_horizon(tmp_path: Path) -> None:
    objective = Toy()
    summary = run(tmp_path, objective, max_steps=6)
    assert (summary.last_step, summary.total_steps, summary.finished) == (6, 20, False)
    assert objective.progress == [step / 20 for step in range(1, 7)]
    assert [row["step"] for row in read_history(tmp_path)] == [4, 6]
    assert read_history(tmp_path)[-1]["loss"] == summary.loss


def test_a_finished_run_has_nothing_to_do(tmp_path: Path) -> None:
    run(tmp_path)
    before = (tmp_path / HISTORY).read_bytes()
    objective = Toy()
    summary = run(tmp_path, objective, resume=True)
    assert (summary.first_step, summary.last_step, summary.loss) == (20, 20, None)
    assert objective.calls == 0
    assert (tmp_path / HISTORY).read_bytes() == before


def test_no_more_steps_than_the_horizon_has(tmp_path: Path) -> None:
    assert run(tmp_path, max_steps=10**6).last_step == 20


def test_rows_go_to_the_listener(tmp_path: Path) -> None:
    rows: list[dict[str, float]] = []
    run(tmp_path, on_log=rows.append)
    assert rows == read_history(tmp_path)


class Hostile:
    """A monitor that does to a run what it can, short of writing to weights."""

    every = 3

    def __init__(self) -> None:
        self.steps: list[int] = []
        self.seen: list[Tensor] = []

    def observe(self, state: TrainState) -> None:
        self.steps.append(state.step)
        random.seed(state.step)
        random.random()
        np.random.seed(state.step)  # noqa: NPY002
        torch.manual_seed(state.step)
        objective = state.objective
        objective.train()
        parts = objective(next(ToySource().batches_from(99)))
        assert not parts["loss"].requires_grad
        self.seen.append(parts["loss"])
        for module in objective.modules():
            if isinstance(module, nn.BatchNorm1d):
                module.momentum = None
                module.reset_running_stats()
                module.running_mean = torch.full((8,), 7.0)
        for buffer in objective.buffers():
            buffer.fill_(7)
        objective.eval()
        objective.requires_grad_(False)


def test_a_monitor_cannot_disturb_a_run(tmp_path: Path) -> None:
    run(tmp_path / "alone")
    before = random.getstate(), np.random.get_state()[1].copy()  # type: ignore[union-attr]  # noqa: NPY002
    hostile, objective = Hostile(), Toy()
    run(tmp_path / "watched", objective, monitors=[hostile])
    assert hostile.steps == [3, 6, 9, 12, 15, 18]
    assert len({float(loss) for loss in hostile.seen}) == 6  # it saw the state of each step
    assert curve(tmp_path / "watched") == curve(tmp_path / "alone")
    assert_equal_states(saved(tmp_path / "watched"), saved(tmp_path / "alone"))
    assert all(module.training for module in objective.modules())
    assert random.getstate() == before[0]
    np.testing.assert_array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002


def test_a_monitor_that_writes_to_weights_is_refused(tmp_path: Path) -> None:
    class Writes:
        every = 2

        def observe(self, state: TrainState) -> None:
            next(state.objective.parameters()).mul_(2)

    with pytest.raises(VocoError, match=r"a monitor changed the weights net\.0\.weight"):
        run(tmp_path, monitors=[Writes()])


def test_a_monitor_that_fails_ends_the_run_and_restores_the_network(tmp_path: Path) -> None:
    class Fails:
        every = 5

        def observe(self, state: TrainState) -> None:
            state.objective.eval()
            raise ZeroDivisionError

    objective = Toy()
    with pytest.raises(ZeroDivisionError):
        run(tmp_path, objective, monitors=[Fails()])
    assert objective.training
    assert saved(tmp_path)["step"] == 5  # the checkpoint of this step is safe


def test_the_callers_generator_is_left_alone(tmp_path: Path) -> None:
    objective = Toy()
    torch.manual_seed(7)
    before = torch.get_rng_state()
    run(tmp_path, objective, max_steps=2)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_loss_that_is_not_finite_ends_the_run_and_saves_nothing(tmp_path: Path) -> None:
    with pytest.raises(Diverged, match=r"step 7: the loss is not finite \(loss nan, noise 0\."):
        run(tmp_path, Toy(poison_at=7))
    assert saved(tmp_path)["step"] == 5
    assert [row["step"] for row in read_history(tmp_path)] == [4]


def test_a_bad_loss_just_before_a_checkpoint_is_not_saved(tmp_path: Path) -> None:
    with pytest.raises(Diverged, match="step 5"):
        run(tmp_path, Toy(poison_at=5))
    assert not (tmp_path / checkpoint.CHECKPOINT).exists()


def test_a_weight_that_is_not_finite_is_not_saved(tmp_path: Path) -> None:
    class Breaks(Toy):
        def after_step(self, progress: float) -> None:
            if progress == 5 / 20:
                self.average.fill_(math.inf)

    with pytest.raises(Diverged, match="step 5: average is not finite"):
        run(tmp_path, Breaks())
    assert not (tmp_path / checkpoint.CHECKPOINT).exists()


def test_clipping_bounds_the_gradient(tmp_path: Path) -> None:
    class Watching(Toy):
        norms: list[float] = []  # noqa: RUF012

        def after_step(self, progress: float) -> None:
            grads = [p.grad for p in self.parameters() if p.grad is not None]
            self.norms.append(torch.cat([g.flatten() for g in grads]).norm().item())

    run(tmp_path, Watching(), config=replace(CONFIG, clip_norm=0.01))
    assert max(Watching.norms) <= 0.01 * (1 + 1e-4)


def test_groups_may_learn_at_their_own_rate(tmp_path: Path) -> None:
    class Frozen(Toy):
        def parameter_groups(self) -> list[dict[str, Any]]:
            first, *rest = self.parameters()
            return [{"params": [first], "lr_scale": 0.0}, {"params": rest}]

    objective = Frozen()
    before = [parameter.detach().clone() for parameter in objective.parameters()]
    run(tmp_path, objective)
    moved = [not torch.equal(a, b) for a, b in zip(before, objective.parameters(), strict=True)]
    assert moved == [False] + [True] * (len(moved) - 1)


@pytest.mark.parametrize(
    ("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, None)]
)
def test_signals_save_and_are_raised_again(
    tmp_path: Path, number: signal.Signals, error: type[BaseException] | None
) -> None:
    class Terminated(BaseException):
        pass

    def terminate(*_: object) -> None:
        raise Terminated

    class Signals(Toy):
        def forward(self, batch: Batch) -> dict[str, Tensor]:
            parts = super().forward(batch)
            if self.calls == 7:
                os.kill(os.getpid(), number)
            return parts

    former = signal.signal(signal.SIGTERM, terminate)
    try:
        with pytest.raises(error or Terminated):
            run(tmp_path / "parts", Signals())
        assert signal.getsignal(signal.SIGTERM) is terminate
    finally:
        signal.signal(signal.SIGTERM, former)
    assert saved(tmp_path / "parts")["step"] == 7
    run(tmp_path / "parts", resume=True)
    run(tmp_path / "whole")
    assert curve(tmp_path / "parts") == curve(tmp_path / "whole")


def test_what_is_logged_is_saved_before(tmp_path: Path) -> None:
    """Where a run prints may be gone when it is stopped."""

    def print_to_nobody(row: dict[str, float]) -> None:
        if row["step"] == 7:
            raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        run(tmp_path, max_steps=7, on_log=print_to_nobody)
    assert saved(tmp_path)["step"] == 7


def test_it_trains_outside_the_main_thread(tmp_path: Path) -> None:
    results: list[FitSummary] = []
    thread = threading.Thread(target=lambda: results.append(run(tmp_path, max_steps=2)))
    thread.start()
    thread.join()
    assert results[0].last_step == 2


def test_an_existing_run_is_not_overwritten(tmp_path: Path) -> None:
    run(tmp_path, max_steps=2)
    before = (tmp_path / checkpoint.CHECKPOINT).read_bytes()
    with pytest.raises(InputError, match="--resume or give another --out"):
        run(tmp_path)
    assert (tmp_path / checkpoint.CHECKPOINT).read_bytes() == before


@pytest.mark.parametrize("resume", [False, True])
def test_a_run_that_another_process_trains_is_refused(tmp_path: Path, resume: bool) -> None:
    out = tmp_path / "run"
    if resume:
        run(out, max_steps=2)
    before = {path.name: path.read_bytes() for path in out.glob("*") if path.name != ".lock"}
    with locks.hold_lock(out / ".lock"), pytest.raises(InputError, match="process trains this run"):
        run(out, resume=resume)
    after = {path.name: path.read_bytes() for path in out.glob("*") if path.name != ".lock"}
    assert after == before
    assert run(out, resume=resume).last_step == CONFIG.total_steps


def test_nothing_to_resume(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing to resume"):
        run(tmp_path / "new", resume=True)
    assert not (tmp_path / "new").exists()


def test_another_experiment_is_not_resumed(tmp_path: Path) -> None:
    run(tmp_path, max_steps=2)
    with pytest.raises(InputError, match=r"recipe\.lr was 0\.05, is 0\.1"):
        run(tmp_path, resume=True, provenance={"stage": "toy", "recipe": {"lr": 0.1}})


def test_another_network_is_not_loaded(tmp_path: Path) -> None:
    class Wider(Toy):
        def __init__(self) -> None:
            super().__init__()
            self.more = nn.Linear(2, 2)

    run(tmp_path, max_steps=2)
    with pytest.raises(InputError, match="do not fit"):
        run(tmp_path, Wider(), resume=True)


def test_a_file_at_the_path_of_the_run_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="expected a folder"):
        run(tmp_path / "file")
    with pytest.raises(InputError, match="expected a place that can be written"):
        run(tmp_path / "file" / "run")


def test_checkpoints_load_with_weights_only_and_say_where_they_come_from(tmp_path: Path) -> None:
    run(tmp_path, max_steps=6)
    payload = torch.load(tmp_path / checkpoint.CHECKPOINT, weights_only=True)
    assert set(payload) == {
        "format", "objective", "optimizer", "step", "seconds", "window", "history", "provenance",
    }  # fmt: skip
    assert payload["provenance"] == PROVENANCE
    assert set(payload["objective"]) == set(Toy().state_dict())
    assert len(payload["window"]) == 2  # steps 5 and 6, after the row of step 4


@pytest.mark.parametrize(
    "wrong",
    [
        {"total_steps": 0}, {"log_every": 0}, {"checkpoint_every": 0}, {"warmup_steps": 21},
        {"lr": 0.0}, {"weight_decay": -1.0}, {"final_lr_fraction": 2.0},
    ],
)  # fmt: skip
def test_a_config_that_cannot_train_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="recipe"):
        replace(CONFIG, **wrong)


def test_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device() == CPU
    assert choose_device("cpu") == CPU
    with pytest.raises(InputError, match="no CUDA device"):
        choose_device("cuda")
    for wrong in ("gpu", "meta"):
        with pytest.raises(InputError, match="expected cpu or cuda"):
            choose_device(wrong)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device().type == "cuda"


def test_warmup_and_cosine_by_hand() -> None:
    def factor(step: int) -> float:
        return warmup_cosine(step, total=110, warmup=10, final_fraction=0.1)

    assert [factor(step) for step in (0, 4, 9)] == pytest.approx([0.1, 0.5, 1.0])
    assert [factor(step) for step in (10, 60, 110)] == pytest.approx([1.0, 0.55, 0.1])
    assert factor(35) == pytest.approx(0.1 + 0.9 * 0.5 * (1 + math.sqrt(0.5)))
    assert warmup_cosine(0, total=5, warmup=0) == 1
    assert [cosine_schedule(0.9, 1.0, p) for p in (0, 0.5, 1)] == pytest.approx([0.9, 0.95, 1.0])


class Plain(Objective):
    """A loss that is a mean over volumes, without batch norm and random draws."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(18, 8), nn.Tanh(), nn.Linear(8, 1)).double()
        self.updates = 0

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        x = batch.volumes.double().flatten(1) / 255
        return {"loss": (self.net(x)[:, 0] - x.mean(1)).square().mean()}

    def after_step(self, progress: float) -> None:
        self.updates += 1


class Halves:
    """The batches of `ToySource`, each as two of half the size."""

    def batches_from(self, step: int) -> Generator[Batch, None, None]:
        for number, batch in enumerate(ToySource().batches_from(step // 2), start=step // 2):
            for half in range(2):
                if 2 * number + half >= step:
                    volumes, items = (
                        t[2 * half : 2 * half + 2] for t in (batch.volumes, batch.items)
                    )
                    yield Batch(volumes, items, batch.seed + half)


@pytest.mark.parametrize("clip_norm", [None, 0.01])
def test_accumulated_batches_train_like_one_large_batch(
    tmp_path: Path, clip_norm: float | None
) -> None:
    large, halves = Plain(), Plain()
    config = replace(CONFIG, clip_norm=clip_norm)
    options: dict[str, Any] = {"device": CPU, "provenance": PROVENANCE}
    fit(large, ToySource(), config, out=tmp_path / "large", **options)
    config = replace(config, accumulate=2)
    for stop, resume in ((7, False), (None, True)):
        source = Halves()
        fit(halves, source, config, out=tmp_path / "b", max_steps=stop, resume=resume, **options)
    assert halves.updates == large.updates == 20
    for one, other in zip(large.parameters(), halves.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)
    losses = [[row["loss"] for row in curve(tmp_path / name)] for name in ("large", "b")]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-9)


def test_a_batch_that_fails_in_an_accumulated_step_is_named(tmp_path: Path) -> None:
    class FailsOnItem3(Plain):
        def forward(self, batch: Batch) -> dict[str, Tensor]:
            losses = super().forward(batch)
            fails = 3 in batch.items.tolist()
            return {"loss": losses["loss"] * (math.nan if fails else 1)}

    with pytest.raises(Diverged, match=r"batch of step 1: item-2, item-3; see"):
        fit(
            FailsOnItem3(), Halves(), replace(CONFIG, accumulate=2), out=tmp_path, device=CPU,
            provenance=PROVENANCE, name_items=lambda items: [f"item-{i}" for i in items],
        )  # fmt: skip


def test_accumulate_is_at_least_one() -> None:
    with pytest.raises(InputError, match="accumulate must be >= 1"):
        replace(CONFIG, accumulate=0)
