"""The page of figures over time: from ledgers, evaluations and tables of health."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flows.command import main
from tests.support.drift_site import RUN, make_drift_site
from voco_data.errors import InputError
from voco_models.tracking.figures import write_figures


def test_figures_are_those_of_the_files(tmp_path: Path) -> None:
    """20 patients were stored and 2 refused, then 10 more and 5 more refused."""
    runs = make_drift_site(tmp_path, cohort=20, new=10, refused_share=0.5)
    folder = runs / RUN
    (folder / "evaluate").mkdir()
    score = {"value": 0.5, "low": 0.4, "high": 0.6}
    (folder / "evaluate" / "metrics.json").write_text(
        json.dumps({"scores": {"rsna_organ_3": score}, "test_patients": 5})
    )
    (folder / "pretrain").mkdir()
    health = "step,crops_per_second,data_wait\n1,10.0,0.5\n2,30.0,0.1\n3,20.0,0.2\n"
    (folder / "pretrain" / "health.csv").write_text(health)
    found = write_figures(tmp_path / "stores", runs, tmp_path / "page")
    nights = [(n["ended"], n["series"], n["refused"]) for n in found["nights"]]
    assert nights == [("2026-02-01 00:00", 22, 2), ("2026-04-01 00:00", 37, 7)]
    [run] = found["retrainings"]
    assert (run["run"], run["status"], run["score_name"]) == (RUN, "champion", "rsna_organ_3")
    assert (run["score"], run["low"], run["high"]) == (0.5, 0.4, 0.6)
    assert (run["crops_per_second"], run["data_wait"]) == (20.0, 0.2)
    page = (tmp_path / "page" / "report.html").read_text()
    assert "refused series: last 7, highest 7" in page
    assert page.count("<svg xmlns=") == 5
    kept = json.loads((tmp_path / "page" / "figures.json").read_text())
    assert kept == {name: found[name] for name in ("nights", "retrainings")}


def test_what_is_not_recorded_is_left_out(tmp_path: Path) -> None:
    runs = make_drift_site(tmp_path, cohort=3, new=0)
    [run] = write_figures(tmp_path / "stores", runs, tmp_path / "page")["retrainings"]
    assert (run["score"], run["crops_per_second"], run["data_wait"]) == (None, None, None)
    assert "crops a second: none yet" in (tmp_path / "page" / "report.html").read_text()
    (runs / RUN / "evaluate").mkdir()
    (runs / RUN / "evaluate" / "metrics.json").write_text("{")
    with pytest.raises(InputError, match="expected the numbers of voco evaluate"):
        write_figures(tmp_path / "stores", runs, tmp_path / "page")


def test_the_command_needs_a_root_only(tmp_path: Path) -> None:
    make_drift_site(tmp_path, cohort=3, new=0)
    out = ["--out", str(tmp_path / "page")]
    assert main(["figures", str(tmp_path / "stores"), *out]) == 0
    assert main(["figures", str(tmp_path / "none"), *out]) == 2
