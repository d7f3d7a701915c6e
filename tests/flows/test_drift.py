"""The watch for drift as command, flow and deployment: who is told of alarms."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from flows.command import main
from flows.drift import drift
from tests.support.drift_site import make_drift_site
from tests.support.prefect_artifacts import artifacts
from tests.support.prefect_site import Site, until
from tests.support.webhook import webhook

pytestmark = pytest.mark.xdist_group("prefect")  # one server for all files of flows


def test_the_command_ends_with_1_for_alarms_only(tmp_path: Path, capsys: Any) -> None:
    runs = make_drift_site(tmp_path / "a", shift_hu=50.0)
    assert main(["drift", str(runs), "--json"]) == 1
    alarms = json.loads(capsys.readouterr().out.splitlines()[-1])["alarms"]
    assert [line.partition(":")[0] for line in alarms] == ["hu_p5", "hu_median", "hu_p95"]
    few = ["--min-patients", "50", "--out", str(tmp_path / "page")]
    assert main(["drift", str(runs), *few]) == 0
    assert "too few to tell" in capsys.readouterr().out
    assert (tmp_path / "page" / "report.html").is_file()
    assert main(["drift", str(runs), "--min-effect", "hu=1"]) == 2
    assert main(["drift", str(tmp_path)]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 2


def test_the_flow_publishes_and_ends_as_drift(embedded: None, tmp_path: Path) -> None:
    quiet = drift(make_drift_site(tmp_path / "quiet"))
    assert isinstance(quiet, dict)
    assert quiet["alarms"] == []
    runs = make_drift_site(tmp_path / "shifted", shift_hu=50.0)
    state = drift(str(runs), return_state=True)  # type: ignore[arg-type]
    assert (state.name, state.type.value) == ("Drift", "COMPLETED")
    assert state.message.startswith("hu_p5: HU, 5th percentile")
    found = artifacts()
    assert '"hu_p5: HU, 5th percentile' in found["drift-summary"][1]
    assert "![first plot of the report](data:image/svg+xml" in found["drift-report"][1]


def test_somebody_is_told_of_a_drift(site: Site) -> None:
    """By the automation of `--notify`, on a real server with a real worker."""
    folder = site.folder / "watched"
    runs = make_drift_site(folder, shift_hu=50.0)
    quiet = make_drift_site(site.folder / "quiet")
    with webhook() as (url, posted):
        site.voco("server", "setup", "--notify", url)
        calm, run = site.run("drift", runs=str(quiet)), site.run("drift", runs=str(runs))
        until(lambda: site.state(run) == "Drift", "the watch")
        until(lambda: site.state(calm) == "Completed", "the watch without a drift")
        told = until(lambda: posted, "the notification")
    assert len(told) == 1
    assert "Drift" in told[0]["subject"]
    assert "hu_median: HU, median of the tissue" in told[0]["message"]
    shutil.rmtree(folder)
