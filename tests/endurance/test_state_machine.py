"""Random sequences of runs, changes of the archive, kills, power cuts and removals.

tests/support/root_machine.py has the rules and the model.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import obstore
import pytest
from hypothesis import HealthCheck, Phase, settings, strategies as st
from hypothesis.stateful import initialize, rule, run_state_machine_as_test

from tests.support.object_server import use
from tests.support.root_machine import (
    FolderMachine,
    RootMachine,
    Victim,
    counts,
    killed_at_request,
)
from tests.support.run_in_process import read_in_process
from tests.support.s3_server import BUCKET, S3Server
from voco_data.storage import atomic


def sizes(examples: int, steps: int) -> settings:
    return settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],  # a failure prints its steps; shorter ones would take hours
        suppress_health_check=list(HealthCheck),
    )


@pytest.fixture(autouse=True)
def quick_runs() -> Iterator[None]:
    """Series are read in this process, and no disk is waited for: it is modelled."""
    with pytest.MonkeyPatch.context() as patch:
        read_in_process(patch)
        patch.setattr(os, "fsync", lambda _: None)
        patch.setattr(atomic, "sync_filesystem", lambda _: None)
        yield


class BucketMachine(RootMachine):
    """On a bucket: runs that are killed before a request."""

    @initialize()
    def choose_prefix(self) -> None:
        self.root = f"s3://{BUCKET}/machine-{self.folder.name}/root"
        self.keep_ids = True

    @rule(victim=st.sampled_from(["preprocess", "prune", "forget"]), number=st.integers(0, 45))
    def interrupt(self, victim: Victim, number: int) -> None:
        counts["steps"] += 1
        if victim == "forget" and not (self.is_finished and self.held):
            return
        counts["interruptions"] += 1
        with killed_at_request(number, obstore):
            self._victim(victim)()
        self._interrupted(victim)


@pytest.fixture
def bucket(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    more = {"VOCO_CACHE": str(tmp_path / "cache"), "XDG_DATA_HOME": str(tmp_path / "data")}
    use(monkeypatch, s3_server.environment | more | {"VOCO_LEASE_SECONDS": "4"})


def test_a_folder() -> None:
    run_state_machine_as_test(FolderMachine, settings=sizes(3, 12))


def test_a_bucket(bucket: None) -> None:
    run_state_machine_as_test(BucketMachine, settings=sizes(1, 8))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_two_thousand_steps_on_a_folder() -> None:
    before = counts["steps"]
    run_state_machine_as_test(FolderMachine, settings=sizes(100, 40))
    assert counts["steps"] - before >= 2000


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_three_hundred_steps_on_a_bucket(bucket: None) -> None:
    before = counts["steps"]
    run_state_machine_as_test(BucketMachine, settings=sizes(16, 30))
    assert counts["steps"] - before >= 300
