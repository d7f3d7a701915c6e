"""`voco localise --score`: what reaches the stage, and errors of one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flows.command import main
from tests.support.organ_stores import organ_store
from voco_data.ingest.archive_masks import ArchiveMasks
from voco_models import stages


class Summary:
    def to_json(self) -> dict[str, object]:
        return {"found": 3, "scores": {"organs": [{"organ": "liver", "median_mm": 4.0}]}}


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A stage that finds nothing. Returns the dictionary that will hold its arguments."""
    calls: dict[str, Any] = {}

    def localise(*arguments: Any, **options: Any) -> Summary:
        calls.update(options, arguments=arguments)
        return Summary()

    monkeypatch.setattr(stages, "localise", localise)
    return calls


def test_options_reach_the_stage_and_scores_are_a_table(
    seen: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = organ_store(tmp_path / "stores", 2, masked=1).path
    words = ["localise", "run", str(store), "--out", "boxes.csv"]
    assert main(words) == 0
    assert seen == {
        "arguments": (Path("run"), store, Path("boxes.csv")),
        "box": "abdomen",
        "margin_mm": 15.0,
        "score": False,
        "masks": None,
        "trained_on": [],
        "pictures": 0,
    }
    scored = [*words, "--score", "--archive", str(tmp_path), "--layout", "ratic"]
    assert main([*scored, "--trained-on", "a.zarr", "--trained-on", "b.zarr"]) == 0
    assert seen["score"] is True
    assert isinstance(seen["masks"], ArchiveMasks)
    assert list(map(str, seen["trained_on"])) == ["a.zarr", "b.zarr"]
    assert "liver  4" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--archive", "ct"], "--archive goes with --score"),
        (["--trained-on", "a.zarr"], "--trained-on goes with --score"),
        (["--score", "--layout", "ratic"], "--layout goes with --archive"),
        (["--score", "--archive", "s3://bucket/ct"], "expected a path of this machine"),
        (["--score", "--archive", "ct", "--layout", "x"], "invalid choice: 'x'"),
    ],
)
def test_options_that_do_not_go_together_are_one_line(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["localise", "run", "store", "--out", "boxes.csv", *words])
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
