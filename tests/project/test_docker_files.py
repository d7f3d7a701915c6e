"""The container files: linters agree, nothing is published beyond this machine, nobody is root."""

from __future__ import annotations

import re
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.job_engine import STOP_LIMIT_S
from tests.support.project import PROJECT

DOCKERFILE = PROJECT / "docker" / "Dockerfile"
COMPOSE = PROJECT / "docker" / "compose.yaml"
SCRIPTS = Path(sysconfig.get_path("scripts"))


def lint(tool: str, *arguments: str | Path) -> None:
    """Run a linter of this environment; fails with what it says."""
    done = subprocess.run([SCRIPTS / tool, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def services() -> dict[str, dict[str, Any]]:
    composed: dict[str, dict[str, Any]] = yaml.safe_load(COMPOSE.read_text())["services"]
    return composed


def instructions(dockerfile: str) -> list[tuple[str, str]]:
    """Instructions of a Dockerfile in order: (name, rest), comments and line breaks resolved."""
    lines = re.sub(r"^\s*#.*\n", "", dockerfile, flags=re.MULTILINE).replace("\\\n", " ")
    pairs = (line.split(maxsplit=1) for line in lines.splitlines() if line.strip())
    return [(name.upper(), " ".join(rest.split())) for name, rest in pairs]


def last_users() -> dict[str, str]:
    """Stage → the user it ends with, inherited from the stage it starts from."""
    users: dict[str, str] = {}
    stage = ""
    for name, rest in instructions(DOCKERFILE.read_text()):
        if name == "FROM":
            base, _, stage = rest.partition(" AS ")
            users[stage] = users.get(base, "root")
        elif name == "USER":
            users[stage] = rest
    return users


def test_hadolint_accepts_the_dockerfile() -> None:
    lint("hadolint", DOCKERFILE)


def test_compose_file_fits_the_schema() -> None:
    lint("check-jsonschema", "--builtin-schema", "vendor.compose-spec", COMPOSE)


def test_both_images_run_without_root() -> None:
    users = last_users()
    assert {users["ingest"], users["train"]} == {"10001"}


def test_base_image_is_one_argument_with_a_full_version() -> None:
    steps = instructions(DOCKERFILE.read_text())
    assert ("ARG", "PYTHON_IMAGE=docker.io/library/python:3.12.11-slim-bookworm") in steps
    stages = {rest.partition(" AS ")[2] for name, rest in steps if name == "FROM"}
    bases = {rest.partition(" AS ")[0] for name, rest in steps if name == "FROM"}
    assert bases - stages == {"${PYTHON_IMAGE}"}


def test_everything_copied_from_the_project_passes_dockerignore() -> None:
    allowed = {line[1:] for line in (PROJECT / ".dockerignore").read_text().split() if "!" in line}
    for name, rest in instructions(DOCKERFILE.read_text()):
        if name == "COPY" and not rest.startswith("--from"):
            assert set(rest.split()[:-1]) <= allowed


def test_ports_are_published_on_loopback_only(services: dict[str, dict[str, Any]]) -> None:
    ports = [port for service in services.values() for port in service.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)
    assert not any("network_mode" in service for service in services.values())


def test_images_carry_full_versions(services: dict[str, dict[str, Any]]) -> None:
    for service in services.values():
        assert re.search(r":\d+\.\d+[\w.-]*$", service["image"])


def test_no_secret_is_written_down(services: dict[str, dict[str, Any]]) -> None:
    for service in services.values():
        for name, value in service.get("environment", {}).items():
            if re.search("PASSWORD|AUTH|CONNECTION_URL", name):
                assert "${" in value
    example = (PROJECT / "docker" / ".env.example").read_text()
    assert re.findall(r"^(\w+)=.+", example, flags=re.MULTILINE) == []


def test_every_variable_of_compose_is_in_the_example() -> None:
    used = set(re.findall(r"\$\{(\w+)", COMPOSE.read_text()))
    example = (PROJECT / "docker" / ".env.example").read_text()
    assert used == set(re.findall(r"^(\w+)=", example, flags=re.MULTILINE))


def test_services_are_watched_and_gpu_is_opt_in(services: dict[str, dict[str, Any]]) -> None:
    for name, service in services.items():
        assert "healthcheck" in service or service["restart"] == "no", name
    gpu = services["worker-gpu"]
    assert gpu["profiles"] == ["gpu"]
    assert gpu["build"]["target"] == "train"
    assert gpu["shm_size"]
    [device] = gpu["deploy"]["resources"]["reservations"]["devices"]
    assert device["capabilities"] == ["gpu"]


def test_workers_have_time_to_save(services: dict[str, dict[str, Any]]) -> None:
    """As docs/operations.md says: a run has 300 s, and only `voco server worker` waits for it."""
    for pool in ("cpu", "gpu"):
        worker = services[f"worker-{pool}"]
        assert worker["command"][:5] == ["voco", "server", "worker", "--pool", pool]
        assert int(worker["stop_grace_period"].removesuffix("s")) > STOP_LIMIT_S


def test_nobody_phones_home(services: dict[str, dict[str, Any]]) -> None:
    for name in ("server", "deploy", "worker-cpu", "worker-gpu"):
        assert services[name]["environment"]["DO_NOT_TRACK"] == "1"
    assert services["server"]["environment"]["PREFECT_SERVER_ANALYTICS_ENABLED"] == "false"
