"""Health of a pretraining: probes of held-out patients, speed, TensorBoard and the page."""

from __future__ import annotations

import html.parser
import importlib.util
import os
import signal
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.support.small_stores import make_store, random_volumes
from tests.voco_models.stages.test_pretraining import GRID, QUICK, curve
from voco_data.errors import InputError
from voco_data.store.reader import Store
from voco_data.store.record import Record
from voco_models.data import items_of
from voco_models.objectives import LossOptions
from voco_models.probes import ProbeOptions, probe, read_volumes
from voco_models.stages.held_out_patients import hold_out_patients
from voco_models.stages.pretrain_monitors import count_crops
from voco_models.stages.pretraining import pretrain
from voco_models.training import Objective, TrainState, checkpoint, health
from voco_models.training.health import HEALTH, PROBES, ProbeMonitor, write_tensorboard
from voco_models.training.history import read_history

PROBED = replace(QUICK, probe_every=2, probe_fraction=0.4)
PLACES = [f"{who}_place_{how}" for who in ("student", "teacher") for how in ("knn", "ridge")]
PROBE_COLUMNS = [
    "step", "correlation", "intra", "intra_student", *PLACES[:2], "student_rank", *PLACES[2:],
    "teacher_rank",
]  # fmt: skip


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return make_store(tmp_path_factory.mktemp("stores"), random_volumes(8, GRID))


@pytest.fixture(scope="module")
def run(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    pretrain([store.path], folder, recipe=PROBED, device="cpu")
    return folder


def without_clock(rows: list[dict[str, float]]) -> list[dict[str, float]]:
    clocks = ("crops_per_second", "data_wait")
    return [{k: v for k, v in row.items() if k not in clocks} for row in rows]


def test_probes_have_a_row_at_their_cadence(run: Path) -> None:
    rows = read_history(run, PROBES)
    assert list(rows[0]) == PROBE_COLUMNS
    assert [row["step"] for row in rows] == [2, 4, 6]
    assert all(np.isfinite(list(row.values())).all() for row in rows)
    assert rows[0]["student_rank"] != rows[0]["teacher_rank"]
    assert rows[0]["intra"] != rows[1]["intra"]


def test_places_of_student_and_teacher_are_those_of_the_probes(store: Store, run: Path) -> None:
    """The student after the last step is the exported backbone."""
    items = items_of([store])
    training, probed, _ = hold_out_patients([store], items, 0.4)
    row = read_history(run, PROBES)[-1]
    backbone, _ = checkpoint.load_backbone(run)
    volumes = read_volumes([store])
    held = frozenset(f"patient-{item.row:03d}" for item in probed)
    assert len(volumes) == len(training) + len(probed)
    ordered = sorted(volumes, key=lambda volume: volume.patient in held)  # as the run has them
    options = ProbeOptions(crop_px=GRID[1] // 3, crops=8, position_slice_stride=0)
    table = probe(backbone, ordered, [held], options, reestimate=True)
    for question, name in (("crop_knn_map", "knn"), ("crop_ridge_map", "ridge")):
        errors = table.by_patient[question]
        mean = sum(errors.values()) / len(errors)
        assert row[f"student_place_{name}"] == pytest.approx(mean, rel=1e-4)
    assert row["student_place_knn"] < GRID[1]


def test_probes_change_no_loss(store: Store, run: Path, tmp_path: Path) -> None:
    """The same patients are held out; one of the runs never looks at them."""
    seldom = replace(PROBED, probe_every=1000)
    pretrain([store.path], tmp_path / "seldom", recipe=seldom, device="cpu")
    assert curve(tmp_path / "seldom") == curve(run)
    assert not (tmp_path / "seldom" / PROBES).exists()


def test_a_resumed_run_has_the_same_tables(store: Store, run: Path, tmp_path: Path) -> None:
    parts = tmp_path / "parts"
    pretrain([store.path], parts, recipe=PROBED, device="cpu", max_steps=3)
    pretrain([store.path], parts, recipe=PROBED, device="cpu", resume=True)
    assert read_history(parts, PROBES) == read_history(run, PROBES)
    rows, expected = (without_clock(read_history(r, HEALTH)) for r in (parts, run))
    # Signals are not in checkpoints: those of the row in which the run stopped are of its end.
    assert [row["step"] for row in rows] == [row["step"] for row in expected] == [2, 4, 6]
    assert rows[0] == expected[0]
    assert rows[2] == expected[2]


def test_health_has_speed_and_signals(run: Path) -> None:
    rows = read_history(run, HEALTH)
    assert [row["step"] for row in rows] == [2, 4, 6]
    crops = count_crops(PROBED, GRID)
    assert crops == 3 * (9 + 2) * 2  # volumes, crop columns, every second of 4 slices
    history = read_history(run)
    for row, before, after in zip(rows[1:], history, history[1:], strict=False):
        seconds = after["seconds"] - before["seconds"]
        assert row["crops_per_second"] == pytest.approx(2 * crops / seconds)
        assert 0 <= row["data_wait"] <= 1
    assert rows[0]["movement_backbone"] < rows[2]["movement_backbone"]
    assert {"teacher_rank", "correlation", "movement_projector"} <= set(rows[0])


def test_patients_are_held_out_whole_and_stay(tmp_path: Path) -> None:
    small = make_store(tmp_path / "a", random_volumes(20, (2, 6, 6)))
    large = make_store(tmp_path / "b", random_volumes(25, (2, 6, 6)))
    held = []
    for store in (small, large):
        items = items_of([store])
        training, probed, _ = hold_out_patients([store], items, 0.3)
        assert {i.row for i in training} | {i.row for i in probed} == {i.row for i in items}
        assert not {i.row for i in training} & {i.row for i in probed}
        held.append({item.row for item in probed})
    assert 1 <= len(held[0]) < 20
    assert {row for row in held[1] if row < 20} == held[0]
    # One patient in two stores is on one side.
    both = items_of([small, large])
    _, probed, _ = hold_out_patients([small, large], both, 0.3)
    assert sorted(i.row for i in probed if i.store is small) == sorted(held[0])
    assert sorted(i.row for i in probed if i.store is large) == sorted(held[1])


def test_patients_who_share_a_volume_are_on_one_side(tmp_path: Path) -> None:
    """Pairs of patients: 0 and 1 share a volume, as 2 and 3 do."""

    def pair(record: Record) -> Record:
        return replace(record, content_digest=f"scan {record.row // 2}")

    store = make_store(tmp_path, random_volumes(40, (2, 6, 6)), change=pair)
    training, probed, _ = hold_out_patients([store], items_of([store]), 0.3)
    pairs = [{item.row // 2 for item in part} for part in (training, probed)]
    assert not pairs[0] & pairs[1]
    assert len(training) == 2 * len(pairs[0])
    assert 1 <= len(pairs[1]) < 20


def test_held_out_volumes_are_not_trained_on(store: Store, tmp_path: Path) -> None:
    summary = pretrain([store.path], tmp_path / "run", recipe=PROBED, device="cpu", max_steps=1)
    _, probed, _ = hold_out_patients([store], items_of([store]), 0.4)
    assert summary.volumes == 8 - len(probed)


def test_nobody_to_train_on_is_refused(tmp_path: Path) -> None:
    single = make_store(tmp_path / "stores", random_volumes(1, GRID))
    with pytest.raises(InputError, match="all 1 patients would be held out"):
        pretrain([single.path], tmp_path / "run", recipe=PROBED, device="cpu")
    with pytest.raises(InputError, match="probe_every must be >= 0"):
        replace(QUICK, probe_every=-1)


def test_any_callable_is_a_probe(store: Store, tmp_path: Path) -> None:
    def norm(step: int, objective: Objective) -> dict[str, float]:
        total = sum(p.square().sum() for p in objective.parameters())
        return {"norm": float(torch.as_tensor(total).sqrt()), "steps": float(step)}

    run = tmp_path / "run"
    monitor = ProbeMonitor(run, [norm], every=3)
    pretrain([store.path], run, recipe=QUICK, device="cpu", monitors=[monitor])
    rows = read_history(run, PROBES)
    assert [row["steps"] for row in rows] == [3, 6]
    assert rows[0]["norm"] > 0
    text = (run / "report.html").read_text()
    assert "Probe: norm" in text
    assert "Held-out" not in text


def test_the_page_is_one_file_with_what_the_tables_hold(run: Path, store: Store) -> None:
    text = (run / "report.html").read_text()

    class Page(html.parser.HTMLParser):
        tags: list[tuple[str, dict[str, str | None]]] = []  # noqa: RUF012
        words: list[str] = []  # noqa: RUF012

        def handle_starttag(self, tag: str, attrs: Any) -> None:
            self.tags.append((tag, dict(attrs)))

        def handle_data(self, data: str) -> None:
            self.words.append(data.strip())

    page = Page()
    page.feed(text)
    assert not [a for _, a in page.tags if a.get("src") or str(a.get("href", "#"))[0] != "#"]
    assert [tag for tag, _ in page.tags].count("svg") == 14
    assert {"Alarms", "None so far.", "Held-out patients: intra loss", "6 of 6"} <= set(page.words)
    assert any(store.storage.name in word for word in page.words)


def test_held_out_losses_are_drawn_also_without_the_students_base_crops(
    store: Store, tmp_path: Path
) -> None:
    loss = LossOptions(inter="all_pairs", inter_target="overlap", reg="off")
    voco = replace(PROBED.voco, loss=loss, student_crops="random")
    run = tmp_path / "run"
    pretrain([store.path], run, recipe=replace(PROBED, voco=voco), device="cpu")
    assert list(read_history(run, PROBES)[0]) == [c for c in PROBE_COLUMNS if c != "intra_student"]
    assert "Held-out patients: intra loss" in (run / "report.html").read_text()
    assert count_crops(replace(PROBED, voco=voco), GRID) == 3 * 2 * 2


@dataclass(frozen=True)
class Stop:
    """Sends a signal to this process after some steps, as a terminal or a scheduler does."""

    every: int
    number: int

    def observe(self, state: TrainState) -> None:
        assert state.step == self.every
        os.kill(os.getpid(), self.number)


def test_a_run_that_is_terminated_has_its_page_first(store: Store, tmp_path: Path) -> None:
    run, written = tmp_path / "run", []

    def on_terminate(*_: object) -> None:
        written.append("22 of 400" in (run / "report.html").read_text())

    before = signal.signal(signal.SIGTERM, on_terminate)
    try:
        changes = ["fit.total_steps=400", "fit.checkpoint_every=200"]
        stop = Stop(21, signal.SIGTERM)
        pretrain([store.path], run, recipe=QUICK, changes=changes, device="cpu", monitors=[stop])
    finally:
        signal.signal(signal.SIGTERM, before)
    assert written == [True]


def test_a_run_that_is_stopped_has_its_page_and_alarms(store: Store, tmp_path: Path) -> None:
    run = tmp_path / "run"
    slow = ["fit.lr=1e-12", "fit.total_steps=400", "fit.log_every=10", "fit.checkpoint_every=50"]
    call = partial(pretrain, [store.path], run, recipe=QUICK, changes=slow, device="cpu")
    with pytest.raises(KeyboardInterrupt):
        call(monitors=[Stop(60, signal.SIGINT)])
    alarms = checkpoint.read_run(run)["alarms"]
    assert any("hardly moved" in alarm for alarm in alarms)
    text = (run / "report.html").read_text()
    assert "have hardly moved" in text
    assert "61 of 400" in text
    summary = call(resume=True, max_steps=70)
    assert summary.alarms[: len(alarms)] == tuple(alarms)


def test_the_page_is_written_at_checkpoints(store: Store, tmp_path: Path) -> None:
    run, found = tmp_path / "run", []

    @dataclass(frozen=True)
    class Look:
        every: int = 5

        def observe(self, state: TrainState) -> None:
            found.append((state.step, (run / "report.html").exists()))

    changes = ["fit.total_steps=10", "fit.checkpoint_every=10"]
    pretrain([store.path], run, recipe=QUICK, changes=changes, device="cpu", monitors=[Look()])
    assert found == [(5, False), (10, True)]


def test_the_page_names_no_probe_that_was_not_made(store: Store, tmp_path: Path) -> None:
    pretrain([store.path], tmp_path / "run", recipe=QUICK, device="cpu", max_steps=2)
    text = (tmp_path / "run" / "report.html").read_text()
    assert "Held-out" not in text
    assert "Losses" in text


def test_tensorboard_files_hold_the_tables(run: Path, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    rows = read_history(run)
    assert write_tensorboard(tmp_path, {"history": rows})
    assert write_tensorboard(tmp_path, {"history": rows})  # replaces the file
    events = EventAccumulator(str(tmp_path / health.TENSORBOARD))
    events.Reload()
    assert "history/loss" in events.Tags()["scalars"]
    found = [(event.step, event.value) for event in events.Scalars("history/loss")]
    assert found == [(int(row["step"]), pytest.approx(row["loss"], rel=1e-6)) for row in rows]


def test_without_tensorboard_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert not write_tensorboard(tmp_path, {"history": [{"step": 1.0, "loss": 2.0}]})
    assert list(tmp_path.iterdir()) == []
