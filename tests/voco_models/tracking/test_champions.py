"""RUNS/champion.json: promotions, rollbacks, what is refused, and damaged files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flows.command import main
from voco_data.errors import InputError
from voco_data.withdrawal.taint import TAINTED
from voco_models.tracking.champion_changes import promote_by_hand, record_run, roll_back
from voco_models.tracking.champions import RetrainedRun, read_champions
from voco_models.tracking.promotion import Verdict


def record(runs: Path, name: str, *, promoted: bool) -> None:
    (runs / name / "finetune").mkdir(parents=True)
    run = RetrainedRun(name, f"{name}/pretrain", "2026-03-01T00:00:00Z", {"rows": name})
    record_run(runs, run, Verdict(promoted, "as told"), read_champions(runs).champion)


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """jan and mar were champions, feb a challenger."""
    for name, promoted in (("jan", True), ("feb", False), ("mar", True)):
        record(tmp_path, name, promoted=promoted)
    return tmp_path


def test_rollbacks_go_back_one_champion_each(runs: Path) -> None:
    assert roll_back(runs, "it was slow").champion == "jan"
    with pytest.raises(InputError, match="no champion before this one"):
        roll_back(runs, "again")
    assert promote_by_hand(runs, "feb", "looks better").champion == "feb"
    assert roll_back(runs, "no").champion == "jan"
    history = [(e.event, e.run, e.before, e.reason) for e in read_champions(runs).history[-3:]]
    assert history == [
        ("rolled back", "jan", "mar", "it was slow"),
        ("promoted by hand", "feb", "jan", "looks better"),
        ("rolled back", "jan", "feb", "no"),
    ]


def test_a_run_is_named_by_its_folder_too(runs: Path) -> None:
    assert promote_by_hand(runs, str(runs / "feb"), "x").champion == "feb"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mar", "mar is the champion already"),
        ("apr", "expected a finished retraining of .*: jan, feb, mar"),
        ("../jan", "expected a finished retraining"),
    ],
)
def test_other_runs_are_refused(runs: Path, name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        promote_by_hand(runs, name, "x")


def test_tainted_and_removed_runs_are_refused(runs: Path) -> None:
    (runs / "feb" / TAINTED).write_text("{}")
    (runs / "jan" / "finetune").rmdir()
    with pytest.raises(InputError, match="withdrawn patient"):
        promote_by_hand(runs, "feb", "x")
    with pytest.raises(InputError, match="its classifier is gone"):
        roll_back(runs, "x")
    assert read_champions(runs).champion == "mar"


def test_a_run_that_was_compared_with_another_champion_is_kept(tmp_path: Path) -> None:
    record(tmp_path, "jan", promoted=True)
    run = RetrainedRun("feb", "feb/pretrain", "", {})
    found = record_run(tmp_path, run, Verdict(True, "better"), against=None)
    assert found.champion == "jan"
    assert "the champion changed to jan meanwhile" in found.history[-1].reason


def edits(text: str) -> dict[str, str]:
    values = json.loads(text)
    return {
        "torn": text[: len(text) // 2],
        "empty": "",
        "no object": "[1, 2]",
        "other champion": text.replace('"champion": "mar"', '"champion": "feb"'),
        "other reason": text.replace("as told", "because"),
        "without digest": json.dumps({k: v for k, v in values.items() if k != "sha256"}),
        "null byte": "\0" * 40,
    }


@pytest.mark.parametrize("kind", list(edits('{"sha256": 1}')))
def test_a_torn_or_edited_file_is_one_line(
    runs: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = runs / "champion.json"
    path.write_text(edits(path.read_text())[kind])
    damaged = path.read_text()
    assert main(["champion", str(runs)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "expected the file as voco wrote it" in line
    assert "champion.previous.json" in line
    assert main(["champion", str(runs), "--rollback", "--reason", "x"]) == 2
    assert path.read_text() == damaged
    path.write_bytes((runs / "champion.previous.json").read_bytes())
    assert read_champions(runs).champion == "jan"


def test_the_command(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (runs / "feb" / TAINTED).write_text("{}")
    assert main(["champion", str(runs), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["champion"] == "mar"
    assert [(r["run"], r["status"], r["tainted"]) for r in found["runs"]] == [
        ("jan", "former champion", False),
        ("feb", "challenger", True),
        ("mar", "champion", False),
    ]
    assert main(["champion", str(runs), "--rollback", "--reason", "slow", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["history"][-1]["reason"] == "slow"
    for words in (["--promote", "feb"], ["--reason", "x"], ["--rollback", "--reason", " "]):
        with pytest.raises(SystemExit, match="2"):
            main(["champion", str(runs), *words])
    assert main(["champion", str(runs / "jan")]) == 2
