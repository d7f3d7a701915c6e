"""The values for Prefect's charts: commands of this project, no root user, secrets by name only."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.command_options import build_parser
from flows.job_engine import STOP_LIMIT_S
from flows.server_setup import POOLS
from tests.support.project import PROJECT

FOLDER = PROJECT / "docker" / "kubernetes"
FILES = sorted(FOLDER.glob("*.yaml"))
PAGE = (PROJECT / "docs" / "kubernetes.md").read_text()


def read(name: str) -> dict[str, Any]:
    values: dict[str, Any] = yaml.safe_load((FOLDER / name).read_text())
    return values


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_no_container_is_root_and_no_secret_is_written_down(file: Path) -> None:
    values = yaml.safe_load(file.read_text())
    contexts = list(find(values, r"(container|pod)?[sS]ecurityContext"))
    assert contexts
    for context in contexts:
        assert context["runAsUser"] == 10001
        assert context["runAsNonRoot"] is True
        if "fsGroup" not in context:  # of a container
            assert context["readOnlyRootFilesystem"] is True
            assert context["allowPrivilegeEscalation"] is False
            assert context["capabilities"] == {"drop": ["ALL"]}
    assert not list(find(values, r"(?i).*password.*|authString"))
    [auth] = find(values, "basicAuth")
    assert auth == {"enabled": True, "existingSecret": "voco-auth"}
    assert "create secret generic voco-auth --from-file=auth-string" in PAGE


def find(values: Any, pattern: str) -> Any:
    """All values, at any depth, whose key matches."""
    if isinstance(values, dict):
        for key, value in values.items():
            if re.fullmatch(pattern, key):
                yield value
            yield from find(value, pattern)
    elif isinstance(values, list):
        for value in values:
            yield from find(value, pattern)


def test_the_worker_is_the_one_that_waits_for_its_runs() -> None:
    worker = read("values-worker.yaml")["worker"]
    assert worker["command"] == ["voco"]
    parsed = build_parser().parse_args(worker["args"])
    assert (parsed.action, parsed.pool, parsed.healthcheck) == ("worker", "cpu", True)
    assert worker["config"] == {"workPool": parsed.pool, "type": "process"}
    assert parsed.pool in POOLS
    names = {volume["name"] for volume in worker["extraVolumes"]}
    assert {mount["name"] for mount in worker["extraVolumeMounts"]} == names
    periods = [int(value) for value in re.findall(r'terminationGracePeriodSeconds": (\d+)', PAGE)]
    assert len(periods) == len(POOLS)
    assert all(period > STOP_LIMIT_S for period in periods)


def test_a_second_worker_has_a_command_of_this_project() -> None:
    [words] = re.findall(r"worker\.args=\{(.*?)\}", PAGE)
    parsed = build_parser().parse_args(words.split(","))
    assert (parsed.action, parsed.pool) == ("worker", "gpu")


def test_the_server_starts_with_this_image() -> None:
    """Whose program is not the entry point that the chart expects, and whose user owns no page."""
    server = read("values-server.yaml")["server"]
    assert server["command"] == ["prefect"]
    assert server["args"][:2] == ["server", "start"]
    assert server["uiConfig"]["prefectUiStaticDirectory"]
