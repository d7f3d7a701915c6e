"""Faults that take minutes, each with a server of its own."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from tests.flows.test_prefect_stops import ended, saved_step, train
from tests.support import prefect_site
from tests.support.prefect_site import until
from tests.support.small_stores import make_store, random_volumes
from voco_models.training.history import HISTORY

pytestmark = [pytest.mark.xdist_group("prefect"), pytest.mark.slow, pytest.mark.timeout(900)]


def test_a_server_that_was_killed_for_minutes_finds_its_run_alive(
    tmp_path: Path, prefect_database: Path
) -> None:
    """Longer than the silence of the automation: it takes the run for dead, which corrects it.

    The worker does not hear of the cancellation any more: the run stops itself.
    """
    store = make_store(tmp_path / "stores", random_volumes(8, (4, 24, 24)))
    site, out = prefect_site.prepare(tmp_path, prefect_database), tmp_path / "run"
    with site.api:
        with prefect_site.running(site) as server:
            site.voco("server", "setup")
            worker = site.worker("gpu", tmp_path / "worker.log")
            worker.__enter__()
            run, group = train(site, store, out)
            until(lambda: heartbeats(site, run) >= 2, "a sign of life")
            os.killpg(server.pid, signal.SIGKILL)
        try:
            before = len((out / HISTORY).read_text().splitlines())
            time.sleep(110)
            assert len((out / HISTORY).read_text().splitlines()) > before  # it goes on
            with prefect_site.running(site):
                until(lambda: "Crashed" in site.states(run), "the automation")
                until(lambda: site.state(run) == "Running", "the run to say that it is alive")
                time.sleep(15)
                assert site.state(run) == "Running"
                site.cancel(run)
                until(ended(site, run, group), "the end of the run")
                assert site.states(run)[-2:] == ["Cancelling", "Cancelled"]
                assert saved_step(out) > 0
        finally:
            worker.__exit__(None, None, None)


def heartbeats(site: prefect_site.Site, run: str) -> int:
    """How many signs of life of a run the server has."""
    wanted = {
        "event": {"name": ["prefect.flow-run.heartbeat"]},
        "resource": {"id": [f"prefect.flow-run.{run}"]},
    }
    found: int = site.ask("/events/filter", filter=wanted)["total"]
    return found
