"""Retention as command and flow: what it lists, and what it removes only with `yes`."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.command import main
from flows.retention import retention
from tests.support.drift_site import make_drift_site, write_ledger
from tests.support.prefect_artifacts import artifacts
from tests.support.prefect_site import Site, until

pytestmark = pytest.mark.xdist_group("prefect")  # one server for all files of flows


def test_the_command_keeps_the_ledgers_that_the_watch_for_drift_needs(
    tmp_path: Path, embedded: None
) -> None:
    """One before the champion, one after it, then two older ones."""
    runs, root = make_drift_site(tmp_path), tmp_path / "stores"
    for day in ("01", "02"):
        write_ledger(root, f"202601{day}T000000", 2, 0)
    ledgers = root / "runs"
    words = ["retention", str(root), "--runs", str(runs), "--keep-runs", "1"]
    assert main(words) == 0
    assert len(list(ledgers.iterdir())) == 4
    assert main([*words, "--yes"]) == 0
    assert sorted(path.name[:8] for path in ledgers.iterdir()) == ["20260201", "20260401"]
    write_ledger(root, "20260103T000000", 2, 0)
    listed = retention(root, runs, keep_runs=1)
    assert (listed["removed"], listed["kept_ledgers"]) == (False, 2)
    assert [item["what"] for item in listed["garbage"]] == ["run"]
    assert retention(str(root), str(runs), keep_runs=1, yes=True)["removed"]  # type: ignore[arg-type]
    assert len(list(ledgers.iterdir())) == 2
    assert artifacts()["retention-summary"][0] == "table"


def test_the_deployment_removes_and_is_paused(site: Site) -> None:
    """`voco retention` lists without --yes; the deployment has it, and may be asked to list."""
    deployment = site.deployment("retention")
    [monthly] = deployment["schedules"]
    assert monthly["active"] is False
    assert deployment["parameters"]["yes"] is True
    runs = site.folder / "retained" / "runs"
    make_drift_site(runs.parent, cohort=3, new=0)
    root = runs.parent / "stores"
    given = {"root": str(root), "runs": str(runs), "keep_runs": 0}
    listed = site.run("retention", yes=False, **given)
    until(lambda: site.state(listed) == "Completed", "the list")
    write_ledger(root, "20260101T000000", 2, 0)
    removed = site.run("retention", **given)
    until(lambda: site.state(removed) == "Completed", "the removal")
    assert sorted(path.name[:8] for path in (root / "runs").iterdir()) == ["20260201", "20260401"]
