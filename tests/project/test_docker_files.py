"""The container files: linters agree, services are hardened and watched, no secret is visible."""

from __future__ import annotations

import http.server
import os
import re
import subprocess
import sys
import sysconfig
import threading
from pathlib import Path
from typing import Any

import pytest
import yaml
from distributed.cli import dask_scheduler, dask_worker

from flows.command_options import build_parser
from flows.job_engine import STOP_LIMIT_S
from flows.server_setup import POOLS
from tests.support.project import PROJECT

DOCKERFILE = PROJECT / "docker" / "Dockerfile"
COMPOSE = PROJECT / "docker" / "compose.yaml"
DIGEST = "@sha256:[0-9a-f]{64}"
PREFECT_SERVICES = ("server", "server-lab", "deploy", "deploy-lab", "worker-cpu", "worker-gpu")
OURS = (*PREFECT_SERVICES, "dask-scheduler", "dask-worker")
PROFILES = {
    "single": {"server", "deploy", "worker-cpu"},
    "gpu": {"worker-gpu"},
    "lab": {
        "server-lab", "deploy-lab", "worker-cpu", "database", "dask-scheduler", "dask-worker", "s3",
        "bucket",
    },
}  # fmt: skip
NOT_IN_THE_SERVER = (
    "SimpleITK", "captum", "dask", "distributed", "highdicom", "imagecodecs", "matplotlib", "monai",
    "nibabel", "nrrd", "numba", "obstore", "onnx", "PIL", "psutil", "pydicom", "scipy", "timm",
    "torch", "torchvision",
)  # fmt: skip
"""What the extras `ingest`, `s3`, `train` and others install, and `orchestrate` does not."""
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


def test_all_images_run_without_root() -> None:
    users = last_users()
    assert {users["server"], users["ingest"], users["train"]} == {"10001"}


def test_base_image_is_one_argument_with_a_full_version_and_a_digest() -> None:
    steps = instructions(DOCKERFILE.read_text())
    [image] = [rest for name, rest in steps if rest.startswith("PYTHON_IMAGE=")]
    assert re.fullmatch(
        rf"PYTHON_IMAGE=docker.io/library/python:3\.12\.\d+-slim-bookworm{DIGEST}", image
    )
    stages = {rest.partition(" AS ")[2] for name, rest in steps if name == "FROM"}
    bases = {rest.partition(" AS ")[0] for name, rest in steps if name == "FROM"}
    assert bases - stages == {"${PYTHON_IMAGE}"}


def test_a_server_deploys_all_flows_without_libraries_of_other_images() -> None:
    """`voco server setup` imports the module of each deployment."""
    entrypoints = [
        deployment["entrypoint"].split(":")
        for deployment in yaml.safe_load((PROJECT / "prefect.yaml").read_text())["deployments"]
    ]
    program = f"""
import importlib, sys
for name in {NOT_IN_THE_SERVER}:
    sys.modules[name] = None
import flows.server_setup
for module, flow in {entrypoints}:
    getattr(importlib.import_module(module), flow)
"""
    environment = os.environ | {"PYTHONPATH": str(PROJECT)}
    words = [sys.executable, "-c", program]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    installed = [rest for _, rest in instructions(DOCKERFILE.read_text()) if "pip install" in rest]
    assert installed[0].endswith('".[orchestrate]"')


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
    """Those of others with their digest."""
    for name, service in services.items():
        version = r":\d+\.\d+\.\d+" if name in OURS else rf":[\w.-]*\d+[\w.-]*{DIGEST}"
        assert re.search(f"{version}$", service["image"]), name
        assert ("build" in service) == (name in OURS)


def test_each_profile_has_its_services_and_all_that_they_wait_for(
    services: dict[str, dict[str, Any]],
) -> None:
    found = {
        profile: {name for name, service in services.items() if profile in service["profiles"]}
        for profile in PROFILES
    }
    assert found == PROFILES
    for profile, names in PROFILES.items():
        for name in names:
            for needed, condition in services[name].get("depends_on", {}).items():
                assert needed in names or condition.get("required") is False, (profile, name)
    for server in ("server", "server-lab"):  # clients ask for http://server:4200
        aliases = services[server].get("networks", {}).get("default", {}).get("aliases", [])
        assert "server" in (server, *aliases)


def test_every_service_is_hardened_and_limited(services: dict[str, dict[str, Any]]) -> None:
    for name, service in services.items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert "cap_add" not in service, name
        assert "privileged" not in service, name
        assert re.fullmatch(r"(\$\{\w+:-)?\d+[gm]\}?", service["mem_limit"]), name
        assert int(service["stop_grace_period"].removesuffix("s")) >= 10, name
        assert any(mount.split(":")[0] == "/tmp" for mount in service["tmpfs"]), name


def test_all_that_prefect_and_voco_write_is_mounted(services: dict[str, dict[str, Any]]) -> None:
    """The root file system is read-only: the folders of ENV and of the Dockerfile's user."""
    for name in PREFECT_SERVICES:
        assert "/voco/.prefect" in mounts(services[name]), name
    for name in ("worker-cpu", "worker-gpu"):
        made = {"stores", "runs", "private", "cache", "scratch"}
        assert mounts(services[name]) >= {f"/voco/{folder}" for folder in made}
        assert services[name]["environment"]["TMPDIR"] == "/voco/scratch"
    for name in ("dask-scheduler", "dask-worker"):
        assert "/voco/cache" in mounts(services[name])
    text = DOCKERFILE.read_text()
    ours = {path for name in OURS for path in mounts(services[name]) if path.startswith("/voco/")}
    assert all(f" {path} " in text.replace("\n", " ") for path in ours)  # made for the user


def mounts(service: dict[str, Any]) -> set[str]:
    """The paths in the container at which something is mounted."""
    volumes = {re.sub(r"^(\$\{[^}]*\}|\w+):", "", volume) for volume in service.get("volumes", [])}
    return {path.split(":")[0] for path in (*volumes, *service["tmpfs"])}


def test_no_secret_is_in_the_environment_or_a_command(services: dict[str, dict[str, Any]]) -> None:
    """`docker inspect` shows both. Secrets are files, which this project's script makes."""
    declared = yaml.safe_load(COMPOSE.read_text())["secrets"]
    for name, service in services.items():
        for variable, value in service.get("environment", {}).items():
            if re.search(
                "PASSWORD|AUTH|CONNECTION_URL|SECRET|KEY|CREDENTIALS|_USER_FILE", variable
            ):
                assert value.startswith("/run/secrets/"), (name, variable)
            if str(value).startswith("/run/secrets/"):
                assert value.removeprefix("/run/secrets/") in service["secrets"], (name, variable)
        assert set(service.get("secrets", ())) <= set(declared), name
    example = (PROJECT / "docker" / ".env.example").read_text()
    assert re.findall(r"^(\w+)=.+", example, flags=re.MULTILINE) == []
    assert not re.search("PASSWORD|AUTH|SECRET|KEY", example)


def test_the_script_makes_every_secret_once(tmp_path: Path) -> None:
    script = tmp_path / "make-secrets.sh"
    script.write_text((PROJECT / "docker" / "make-secrets.sh").read_text())
    texts = []
    for _ in range(2):
        done = subprocess.run(["sh", script], capture_output=True, text=True, check=True)
        texts.append({path.name: path.read_text() for path in (tmp_path / "secrets").iterdir()})
    assert texts[0] == texts[1]
    declared = yaml.safe_load(COMPOSE.read_text())["secrets"]
    assert all(secret["file"] == f"secrets/{name}" for name, secret in declared.items())
    assert set(texts[0]) == {*declared, "login"}
    assert (tmp_path / "secrets").stat().st_mode & 0o777 == 0o700  # others may not look
    login, password = texts[0]["login"], texts[0]["database_password"]
    assert re.fullmatch("voco:[0-9a-f]{32}", login)
    assert login not in done.stdout
    for name, setting in (
        ("client.toml", "PREFECT_API_AUTH_STRING"),
        ("server.toml", "PREFECT_SERVER_API_AUTH_STRING"),
    ):
        assert read_settings(tmp_path / "secrets" / name)[setting] == login
    server = read_settings(tmp_path / "secrets" / "server.toml")
    assert server["PREFECT_SERVER_DATABASE_PASSWORD"] == password
    assert set(read_settings(tmp_path / "secrets" / "client.toml")) == {"PREFECT_API_AUTH_STRING"}


def read_settings(profiles: Path) -> dict[str, str]:
    """What Prefect itself reads from a file of profiles."""
    program = (
        "import json; from prefect.settings.profiles import load_current_profile; "
        "settings = load_current_profile().settings; "
        "print(json.dumps({key.name: value for key, value in settings.items()}))"
    )
    environment = os.environ | {"PREFECT_PROFILES_PATH": str(profiles)}
    environment.pop("PREFECT_PROFILE", None)
    words = [sys.executable, "-c", program]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
    found: dict[str, str] = yaml.safe_load(done.stdout)
    return found


def test_every_variable_of_compose_is_in_the_example() -> None:
    used = set(re.findall(r"(?<!\$)\$\{(\w+)", COMPOSE.read_text()))
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


@pytest.mark.parametrize(
    ("answers", "healthy"),
    [
        ({"/": 200, "/api/ready": 200}, True),
        ({"/": 404, "/api/ready": 200}, False),  # an image whose user cannot write the page
        ({"/": 200, "/api/ready": 503}, False),  # no database
    ],
)
def test_a_server_is_healthy_with_its_page_and_its_database(
    services: dict[str, dict[str, Any]], answers: dict[str, int], healthy: bool
) -> None:
    class Answers(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(answers[self.path])
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    kind, python, *words = services["server"]["healthcheck"]["test"]
    assert (kind, python) == ("CMD", "python")
    with http.server.HTTPServer(("127.0.0.1", 0), Answers) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        words = [word.replace(":4200", f":{server.server_port}") for word in words]
        done = subprocess.run([sys.executable, *words], capture_output=True, check=False)
        server.shutdown()
    assert (done.returncode == 0) is healthy
    assert services["server-lab"]["healthcheck"] == services["server"]["healthcheck"]


def test_commands_are_those_of_this_project(services: dict[str, dict[str, Any]]) -> None:
    """Each is parsed by the parser of its program."""
    parsed = set()
    for name in OURS:
        program, *words = services[name]["command"]
        words = [re.sub(r"\$\{\w+:-(.*)\}", r"\1", word) for word in words]  # the default
        if program == "voco":
            parsed.add(build_parser().parse_args(words).action)
        elif program == "dask":
            main = {"scheduler": dask_scheduler.main, "worker": dask_worker.main}[words[0]]
            main.make_context(words[0], words[1:], ignore_unknown_options=False)
            parsed.add(words[0])
        else:
            assert [program, *words] == ["prefect", "server", "start", "--host", "0.0.0.0"]
    assert parsed == {"setup", "worker", "scheduler"}


def test_workers_have_time_to_save(services: dict[str, dict[str, Any]]) -> None:
    """As docs/operations.md says: a run has 300 s, and only `voco server worker` waits for it."""
    for pool in POOLS:
        worker = services[f"worker-{pool}"]
        assert worker["command"][:5] == ["voco", "server", "worker", "--pool", pool]
        assert int(worker["stop_grace_period"].removesuffix("s")) > STOP_LIMIT_S


def test_nobody_phones_home(services: dict[str, dict[str, Any]]) -> None:
    """The images say so, and no service says otherwise."""
    environment = " ".join(
        rest for name, rest in instructions(DOCKERFILE.read_text()) if name == "ENV"
    )
    assert "DO_NOT_TRACK=1" in environment
    assert "PREFECT_SERVER_ANALYTICS_ENABLED=false" in environment
    for service in services.values():
        assert not {"DO_NOT_TRACK", "PREFECT_SERVER_ANALYTICS_ENABLED"} & set(
            service.get("environment", {})
        )
