"""The timeline of retrainings: its lines, and its page, from made-up runs."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from flows.command import main
from tests.support.known_run import write_known_run
from tests.support.project import PROJECT
from voco_data.errors import InputError
from voco_data.selection.pinned_rows import PinnedRows
from voco_data.withdrawal.taint import TAINTED
from voco_models.evaluation import report
from voco_models.evaluation.bootstrap import Interval
from voco_models.tracking import champions as files
from voco_models.tracking.backbone_choice import BackboneChoice
from voco_models.tracking.champion_changes import record_run, roll_back
from voco_models.tracking.champions import Learnt, RetrainedRun, read_champions
from voco_models.tracking.conclusion import conclude_retraining
from voco_models.tracking.pins import RetrainingPins
from voco_models.tracking.promotion import Verdict
from voco_models.tracking.scores import METRICS, ScoredRun
from voco_models.tracking.timeline import NOT_FINISHED, read_timeline
from voco_models.tracking.timeline_page import Scale, render_timeline

JAN, FEB, MAR, APR = (f"retrain-20260{n}01-030000-00000000000{n}" for n in (1, 2, 3, 4))
OWN = ScoredRun("rsna_organ_3", 40, Interval(0.6, 0.5, 0.7))
PAIRED = ScoredRun(
    "rsna_organ_3", 41, Interval(0.58, 0.49, 0.68), Interval(0.6, 0.51, 0.69),
    Interval(-0.02, -0.05, 0.01), 0.05,
)  # fmt: skip


def finish(runs: Path, name: str, verdict: Verdict, *, backbone: str = "", new: int = 5) -> None:
    (runs / name / "finetune").mkdir(parents=True)
    (runs / name / "finetune" / "weights").write_bytes(bytes(2_500_000))
    learnt = Learnt(50, 2, 60, new, "as told")
    run = RetrainedRun(
        name, f"{backbone or name}/pretrain", "2026-06-01T00:00:00Z", {"rows": name}, learnt
    )
    record_run(runs, run, verdict, read_champions(runs).champion)


def pin(runs: Path, name: str) -> RetrainingPins:
    """The folder of a retraining that has begun."""
    (runs / name).mkdir()
    choice = BackboneChoice(f"{JAN}/pretrain", False, 0.1, "10.0% are new")
    pins = RetrainingPins(runs / name, {"finetune": "/x/f.zarr"}, {"rows": name}, choice, 50, 1)
    values = {
        "stores": dict(pins.stores), "digests": dict(pins.digests), "patients": 50,
        "unlabelled": 1, "format": "voco retraining", "version": 1,
        "backbone": {"folder": choice.folder, "pretrains": False, "new_share": 0.1, "reason": "x"},
    }  # fmt: skip
    (runs / name / "pins.json").write_text(json.dumps(values))
    PinnedRows({"f.zarr": {0: "a", 1: "b"}}).write(pins.rows)
    return pins


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """January was promoted, February did not finish, March was promoted; then a rollback."""
    finish(tmp_path, JAN, Verdict(True, "there was no champion", OWN))
    pin(tmp_path, FEB)
    (tmp_path / FEB / "pretrain").mkdir()
    (tmp_path / FEB / "finetune").mkdir()
    reason = "not worse by more than the margin 0.05: rsna_organ_3 0.5800, champion"
    finish(tmp_path, MAR, Verdict(True, reason, PAIRED), backbone=JAN)
    roll_back(tmp_path, "too many alarms")
    return tmp_path


def test_the_lines_are_in_the_order_of_events(runs: Path) -> None:
    (runs / "notes").mkdir()  # no retraining
    entries = read_timeline(runs)
    assert [(e.what, e.run, e.champion) for e in entries] == [
        ("promoted", JAN, JAN),
        (NOT_FINISHED, FEB, JAN),
        ("promoted", MAR, MAR),
        ("rolled back", JAN, JAN),
    ]
    first, unfinished, second, by_hand = entries
    assert [e.time for e in entries[:3]] == [f"2026-0{n}-01 03:00" for n in (1, 2, 3)]
    assert (first.scored, second.scored) == (OWN, PAIRED)
    assert (first.backbone, second.backbone, unfinished.backbone) == (JAN, JAN, JAN)
    assert first.folder_bytes == 2_500_000
    assert unfinished.learnt == Learnt(50, 1, 2, None, "x")
    assert unfinished.reason.startswith("it came to fine-tuning")
    assert (by_hand.reason, by_hand.folder_bytes, by_hand.scored) == ("too many alarms", None, None)


def test_a_run_that_is_gone_tainted_or_damaged_is_still_a_line(runs: Path) -> None:
    (runs / MAR / "finetune" / TAINTED).write_text("{}")
    for path in (runs / JAN).rglob("*"):
        if path.is_file():
            path.unlink()
    (runs / JAN / "finetune").rmdir()
    (runs / JAN).rmdir()
    (runs / APR / "pretrain").mkdir(parents=True)
    shutil.copy(runs / FEB / "pins.json", runs / APR)
    (runs / APR / "pretrain" / TAINTED).write_text("{}")
    (runs / FEB / "pins.json").write_text("{")
    first, unfinished, second, _, last = read_timeline(runs)
    assert last.reason.startswith("it came to pretraining; a patient withdrew since")
    assert (first.folder_bytes, first.tainted, second.tainted) == (None, False, True)
    assert "cannot read them" in unfinished.reason
    assert unfinished.learnt is None


class Cells(HTMLParser):
    """The texts of the cells of the first table, a list a line."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[list[str]] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_data(self, data: str) -> None:
        if self.rows and self.rows[-1]:
            self.rows[-1][-1] += data

    @classmethod
    def of(cls, page: str) -> list[list[str]]:
        parser = cls()
        parser.feed(page[page.index("<table") : page.index("</table>")])
        return [[" ".join(cell.split()) for cell in row] for row in parser.rows]


def test_the_page_shows_each_line(runs: Path, tmp_path: Path, capsys: Any) -> None:
    page = tmp_path / "pages" / "timeline.html"
    assert main(["champion", str(runs), "--page", str(page), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["page"] == str(page)
    text = page.read_text()
    _, first, unfinished, second, by_hand = Cells.of(text)
    assert first[0] == f"2026-01-01 03:00{JAN}"
    assert first[1] == "promotedchampion then 2026-01-01"
    assert first[2] == "50 patients2 without label60 series, 5 new2.5 MB"
    assert first[3] == "pretrained anewas told"
    assert first[4:] == ["0.600 [0.500, 0.700] 40 test patients", "", "there was no champion"]
    assert unfinished[1] == "not finishedchampion then 2026-01-01"
    assert second[3] == "from 2026-01-01as told"
    assert second[4].startswith("0.580 [0.490, 0.680] 0.600 [0.510, 0.690]")
    assert second[5] == "-0.020 [-0.050, +0.010] margin 0.05"
    assert second[6] == "not worse by more than the margin 0.05"
    assert by_hand[1] == "rolled backchampion then 2026-01-01"
    assert by_hand[6] == "too many alarms"
    assert "3 retrainings, 1 not finished, from 2026-01-01 to 2026-03-01" in text
    assert not re.search(r"(src|href)=.(?!#)", text)  # it loads nothing


def test_a_margin_that_would_hide_the_bars_is_not_drawn(runs: Path) -> None:
    def margins() -> int:
        return render_timeline(read_timeline(runs)).count('<line class="margin"')

    assert margins() == 1
    wide = ScoredRun(
        PAIRED.score, PAIRED.patients, PAIRED.run, PAIRED.champion, PAIRED.difference, 9.0
    )
    finish(runs, APR, Verdict(False, "x", wide))
    assert margins() == 1


def test_text_of_people_is_escaped(runs: Path) -> None:
    finish(runs, APR, Verdict(True, "x"))
    roll_back(runs, "<script>alert(1)</script>")
    page = render_timeline(read_timeline(runs))
    assert "<script" not in page
    assert "&lt;script&gt;" in page


def test_a_folder_without_any_retraining_has_a_page(tmp_path: Path) -> None:
    assert "No retraining has begun yet" in render_timeline(read_timeline(tmp_path))


@pytest.mark.parametrize(
    ("low", "high"), [(0.0, 1.0), (-0.05, 0.05), (3.1, 3.14159), (-7.0, 120.0), (0.9, 0.901)]
)
def test_an_axis_has_a_few_round_numbers_inside(low: float, high: float) -> None:
    scale = Scale.around([low, high])
    assert scale is not None
    ticks = scale.ticks
    assert 1 <= len(ticks) <= 4
    assert all(low - 1e-9 <= tick.value <= high + 1e-9 for tick in ticks)
    assert [float(tick.text) for tick in ticks] == pytest.approx([tick.value for tick in ticks])
    assert 0 <= scale.place(low) < scale.place(high) <= scale.width


# --- what champion.json keeps for the page -------------------------------------------------------


def test_a_file_of_version_1_is_read_and_renewed_by_the_next_change(runs: Path) -> None:
    path = runs / "champion.json"
    values = json.loads(path.read_text())
    assert values["version"] == 2
    values["version"] = 1
    for run in values["runs"]:
        del run["learnt"]
    for event in values["history"]:
        del event["scored"]
    del values["sha256"]
    path.write_text(json.dumps(values | {"sha256": files._digest(values)}))
    old = read_champions(runs)
    assert (old.champion, old.runs[0].learnt, old.history[0].scored) == (JAN, None, None)
    assert "not worse by more" in render_timeline(read_timeline(runs))
    finish(runs, APR, Verdict(False, "x", PAIRED))
    new = json.loads(path.read_text())
    assert new["version"] == 2
    assert new["history"][0] == {**values["history"][0], "scored": None}
    assert read_champions(runs).history[-1].scored == PAIRED


def test_a_later_version_and_numbers_that_are_none_are_refused(runs: Path) -> None:
    path = runs / "champion.json"
    for change in ({"version": 3}, {"history": [{"scored": {"run": {"value": "x"}}}]}):
        values = json.loads(path.read_text()) | change
        del values["sha256"]
        path.write_text(json.dumps(values | {"sha256": files._digest(values)}))
        with pytest.raises(InputError, match="as voco wrote it"):
            read_champions(runs)


def test_a_conclusion_keeps_the_scores_and_the_counts(tmp_path: Path) -> None:
    first = pin(tmp_path, JAN)
    write_known_run(first.folder / "finetune", quality=2.0)
    (first.folder / "evaluate").mkdir()
    own = {"value": 0.4, "low": 0.3, "high": 0.5}
    metrics = {"test_patients": 7, "scores": {"rsna_official_6": own, "rsna_organ_3": own}}
    (first.folder / "evaluate" / "metrics.json").write_text(json.dumps(metrics))
    conclude_retraining(first)
    second = pin(tmp_path, FEB)
    PinnedRows({"f.zarr": {0: "a", 7: "c", 8: "d"}}).write(second.rows)
    write_known_run(second.folder / "finetune", quality=4.0, noise_seed=1)
    conclude_retraining(second)
    champions = read_champions(tmp_path)
    assert [
        run.learnt and (run.learnt.series, run.learnt.new_series) for run in champions.runs
    ] == [
        (2, 2),
        (3, 2),
    ]
    alone, paired = (event.scored for event in champions.history)
    assert alone == ScoredRun("rsna_organ_3", 7, Interval(0.4, 0.3, 0.5))
    compared = json.loads((second.folder / "comparison" / "comparison.json").read_text())
    row = compared["differences"]["rsna_organ_3"]
    assert paired is not None
    assert paired.patients == compared["patients"]
    assert paired.margin == 0.05
    assert paired.run == Interval(**row["first_interval"])
    assert paired.champion == Interval(**row["second_interval"])
    assert paired.difference == Interval(**row["difference"])
    assert row["first"] == paired.run.value < paired.champion.value
    assert paired.run.low < paired.run.value < paired.run.high


def test_a_broken_evaluation_is_one_line(tmp_path: Path) -> None:
    pins = pin(tmp_path, JAN)
    (pins.folder / "evaluate").mkdir()
    (pins.folder / "evaluate" / "metrics.json").write_text("{}")
    with pytest.raises(InputError, match=r"metrics\.json: expected the numbers of voco evaluate"):
        conclude_retraining(pins)


def test_the_champion_is_read_without_torch() -> None:
    assert METRICS == report.METRICS
    code = "import sys, voco_models.tracking.champions; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=PROJECT)
