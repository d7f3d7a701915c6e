"""No part of voco connects to anything beyond this machine: Prefect, training, reports.

Every process of the commands writes down where it connects to, and which names it looks up.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.connections import Event, is_of_this_machine, read_events, watching
from voco_data.phantom.cohort import CohortSpec, write_cohort

FLOWS = """
import sys
from pathlib import Path

from flows.embedded import isolate_prefect, start_server

root = Path(sys.argv[1])
isolate_prefect(root)
start_server()
from flows.preprocess import preprocess
from flows.pretrain import pretrain

summary = preprocess(root / "ratic", root / "stores", specs=("pretrain",), workers=1)
changes = ("fit.total_steps=1", "fit.warmup_steps=0", "batch_size=2", "voco.grid=32")
pretrain([summary["stores"]["pretrain"]], root / "run", recipe="tiny", changes=changes)
"""
LOOKUP = """
import socket

try:
    socket.create_connection(("192.0.2.1", 80), timeout=0.01)
except OSError:
    pass
"""


def run(script: str, *arguments: str, connections: Path) -> list[Event]:
    """Run a script; returns the events that its processes wrote down, and their addresses."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        env=own
        | watching(connections)
        | {"PREFECT_SERVER_ANALYTICS_ENABLED": "true"},  # voco's own settings switch it off
        cwd=connections.parent,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return read_events(connections)


@pytest.mark.xdist_group("prefect")
def test_flows_connect_to_this_machine_alone(tmp_path: Path) -> None:
    spec = CohortSpec(patients=4, unlabelled=0, matrix=64, slices=24)
    write_cohort(spec, tmp_path / "made").ratic.rename(tmp_path / "ratic")
    events = run(FLOWS, str(tmp_path), connections=tmp_path / "connections.txt")
    assert (tmp_path / "run" / "backbone.pt").exists()
    assert any(event == "socket.connect" for event, _ in events), "Prefect's server is asked"
    assert [event for event in events if not is_of_this_machine(event[1])] == []


def test_an_address_elsewhere_would_be_seen(tmp_path: Path) -> None:
    """What the test above relies on. 192.0.2.1 is for documentation, and belongs to nobody."""
    events = run(LOOKUP, connections=tmp_path / "connections.txt")
    assert ("socket.connect", ("192.0.2.1", 80)) in events
    assert not all(is_of_this_machine(address) for _, address in events)
