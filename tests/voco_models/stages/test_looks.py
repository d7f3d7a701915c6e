"""The test set is opened once: what is recorded, what is refused, what an interruption costs."""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from flows.command import main
from tests.support.known_run import write_known_run
from voco_data.errors import InputError, VocoError
from voco_data.version import VERSION
from voco_models.evaluation import looks
from voco_models.evaluation.comparison import compare
from voco_models.stages.comparison import compare_runs
from voco_models.stages.evaluation import compute_results, evaluate


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_known_run(tmp_path / "run", quality=2.0, count=40)


def record(run: Path) -> list[dict[str, Any]]:
    return list(json.loads((run / "evaluations.json").read_text())["looks"])


def test_the_first_look_is_recorded(run: Path) -> None:
    assert evaluate(run).looks == 1
    (look,) = record(run)
    assert (look["kind"], look["out"], look["voco"]) == ("evaluation", ".", VERSION)
    assert set(look["sha256"]) == {"decision.json", "predictions.parquet", "labels.parquet"}
    assert json.loads((run / "metrics.json").read_text())["test_set"]["looks"] == 1
    assert "The test set was opened once." in (run / "report.html").read_text()


def test_a_second_look_is_asked_for_and_counted(run: Path, tmp_path: Path) -> None:
    evaluate(run)
    before = (run / "metrics.json").read_bytes()
    for out in (None, tmp_path / "elsewhere"):
        with pytest.raises(InputError, match="--again"):
            evaluate(run, out)
    assert (run / "metrics.json").read_bytes() == before
    assert not (tmp_path / "elsewhere").exists()
    assert evaluate(run, tmp_path / "elsewhere", again=True).looks == 2
    assert evaluate(run, again=True).looks == 3
    assert [look["out"] for look in record(run)] == [".", "../elsewhere", "."]
    assert "The test set was opened 3 times" in (run / "report.html").read_text()


def test_the_command_says_so_in_one_line(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(run), "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["looks"] == 1
    assert main(["evaluate", str(run)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "--again" in line
    assert main(["evaluate", str(run), "--again", "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["looks"] == 2


@pytest.mark.parametrize("name", ["decision.json", "predictions.parquet", "labels.parquet"])
@pytest.mark.parametrize("again", [False, True])
def test_what_changed_after_the_first_look_is_named(run: Path, name: str, again: bool) -> None:
    evaluate(run)
    other = write_known_run(run.parent / "other", quality=1.0, count=40, seed=1)
    shutil.copy(other / name, run / name)
    with pytest.raises(InputError, match=rf"run/{name}: changed since"):
        evaluate(run, again=again)
    assert len(record(run)) == 1


@pytest.mark.parametrize("lost", ["metrics.json", "report.html"])
def test_an_evaluation_that_lost_a_file_is_completed(run: Path, lost: str) -> None:
    evaluate(run)
    before = (run / lost).read_bytes()
    (run / lost).unlink()
    assert evaluate(run).looks == 1
    assert (run / lost).read_bytes() == before
    assert len(record(run)) == 1


def test_a_crash_before_the_numbers_is_no_look(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("voco_models.stages.evaluation.compute_results", lambda _: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            evaluate(run)
    assert looks.read_looks(run) == ()
    assert evaluate(run).looks == 1


@pytest.mark.parametrize("again", [False, True])
def test_a_crash_after_the_numbers_is_one_look(
    run: Path, monkeypatch: pytest.MonkeyPatch, again: bool
) -> None:
    if again:
        evaluate(run)
    with monkeypatch.context() as patch:
        patch.setattr("voco_models.stages.evaluation.report.make_sections", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            evaluate(run, again=again)
    assert (run / "metrics.json").exists()
    assert not (run / "report.html").exists()
    assert evaluate(run, again=again).looks == 1 + again
    assert (run / "report.html").exists()
    assert len(record(run)) == 1 + again


def test_a_retry_looks_no_other_time(run: Path) -> None:
    evaluate(run)
    assert evaluate(run, resume=True).looks == 1
    with pytest.raises(InputError, match="--again"):
        evaluate(run, run / "elsewhere", resume=True)


def test_a_moved_run_keeps_its_record(run: Path, tmp_path: Path) -> None:
    evaluate(run, tmp_path / "scores")
    (tmp_path / "far").mkdir()
    for name in ("run", "scores"):
        (tmp_path / name).rename(tmp_path / "far" / name)
    (tmp_path / "far" / "scores" / "report.html").unlink()
    assert evaluate(tmp_path / "far" / "run", tmp_path / "far" / "scores").looks == 1


def test_a_record_that_cannot_be_read_is_no_empty_one(run: Path) -> None:
    (run / "evaluations.json").write_text("{")
    with pytest.raises(InputError, match="record of looks"):
        evaluate(run)
    (run / "evaluations.json").write_text('{"format": "voco evaluations", "version": 99}')
    with pytest.raises(InputError, match="record of looks"):
        evaluate(run)


def test_a_record_that_cannot_be_written_is_an_error(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, text: str) -> None:
        raise PermissionError(13, "Permission denied")

    opening = looks.open_for_evaluation(run, run, ("metrics.json",))
    monkeypatch.setattr("voco_models.evaluation.looks.atomic.write_text", refuse)
    with pytest.raises(VocoError, match="cannot record that the test set was opened"):
        opening.record()


def test_without_matplotlib_the_test_set_stays_closed(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for words in (["evaluate", str(run)], ["evaluate", str(run), "--against", str(run)]):
        assert main(words) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert "matplotlib" in line
        assert "pip install" in line
    assert not (run / "evaluations.json").exists()


def test_a_run_that_is_read_only_is_refused_before_its_test_set_is_opened(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("voco_models.evaluation.looks.os.access", lambda path, _: path != run)
    with pytest.raises(VocoError, match="read-only"):
        evaluate(run, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_two_processes_open_the_test_set_one_after_the_other(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second evaluation knows of the first, though it began before that was recorded."""
    computing, go_on = threading.Event(), threading.Event()

    def wait(folder: Path) -> dict[str, Any]:
        computing.set()
        assert go_on.wait(60)
        return compute_results(folder)

    monkeypatch.setattr("voco_models.stages.evaluation.compute_results", wait)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(evaluate, run)
        assert computing.wait(60)
        second = pool.submit(evaluate, run, tmp_path / "elsewhere")
        with pytest.raises(TimeoutError):
            second.result(timeout=0.5)
        go_on.set()
        assert first.result(60).looks == 1
        with pytest.raises(InputError, match="--again"):
            second.result(60)
    assert [look["out"] for look in record(run)] == ["."]


def test_two_comparisons_at_one_time_are_both_recorded(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = [write_known_run(tmp_path / n, quality=1.0, count=40, noise_seed=1) for n in "ab"]
    began = threading.Barrier(2)

    def slow(*args: Any) -> Any:
        with contextlib.suppress(threading.BrokenBarrierError):
            began.wait(1)  # until both have read the record, if nothing keeps them apart
        return compare(*args)

    monkeypatch.setattr("voco_models.stages.comparison.compare", slow)
    with ThreadPoolExecutor(2) as pool:
        done = [pool.submit(compare_runs, run, other, tmp_path / "out") for other in others]
        for each in done:
            each.result(120)
    assert sorted(look["against"] for look in record(run)) == ["../a", "../b"]
