"""The command as a service user: any uid, no home, read-only code, `umask 077`."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.project import PROJECT
from voco_data.phantom.cohort import CohortSpec, write_cohort

UID = 12_345
COHORT = CohortSpec(patients=12, unlabelled=0, matrix=64, slices=24, injury_prevalence=0.35, seed=0)
PRETRAIN = (
    "--set", "fit.total_steps=4", "--set", "fit.warmup_steps=1", "--set", "fit.checkpoint_every=2",
)  # fmt: skip
FINETUNE = ("--set", "epochs=1", "--set", "batch_size=4", "--set", "view.size_px=32")


def _python_of_any_user(*packages: str) -> str:
    """A Python of this version, with these packages, that a service user may run."""
    if os.getuid() != 0:
        pytest.skip("only root can become another user")
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    for python in (sys.executable, f"/usr/bin/python{version}"):
        try:
            tried = _run_as_service([python, "-c", f"import {', '.join(packages)}"], {})
        except (PermissionError, FileNotFoundError):
            continue
        if not tried.returncode:
            return python
    pytest.skip(f"no Python {version} with {', '.join(packages)} that any user may run")


def _run_as_service(
    command: list[str], variables: dict[str, str]
) -> subprocess.CompletedProcess[str]:
    """Run a command as a user without a home and without write access to the code."""
    packages = sysconfig.get_paths()["purelib"]
    return subprocess.run(
        command,
        user=UID,
        group=UID,
        extra_groups=[],
        umask=0o077,
        cwd="/",
        check=False,
        capture_output=True,
        text=True,
        env={
            "PYTHONPATH": f"{PROJECT}:{packages}",
            "HOME": "/nonexistent",
            "PYTHONDONTWRITEBYTECODE": "1",
            **variables,
        },
    )


@pytest.fixture
def shared() -> Iterator[Path]:
    """A folder that another user can enter, with `root` and `tmp` that the service user owns."""
    with tempfile.TemporaryDirectory(prefix="voco-service-") as folder:
        path = Path(folder)
        path.chmod(0o755)
        for name in ("root", "tmp"):
            (path / name).mkdir()
            os.chown(path / name, UID, UID)
        yield path


@pytest.mark.slow
def test_a_service_user_goes_from_archive_to_prediction(shared: Path) -> None:
    python = _python_of_any_user("numba", "torch", "timm")
    cohort = write_cohort(COHORT, shared / "cohort")
    root, runs = shared / "root", shared / "root" / "runs"

    def run(*command: object) -> str:
        return _run_voco(python, shared, *command)

    printed = run("preprocess", cohort.ratic, "--root", root, "--workers", 1)
    assert "16 series: 16 stored" in printed  # some patients have two
    [pretrain_store], [store] = root.glob("pretrain-*.zarr"), root.glob("finetune-*.zarr")
    labels = ("--labels", cohort.labels)
    run("split", store, *labels, "--folds", 2, "--out", runs / "split.json")
    recipe = ("--split", runs / "split.json", "--recipe", "tiny")
    run("pretrain", pretrain_store, *recipe, *PRETRAIN, "--out", runs / "pretrain")
    init = ("--init", runs / "pretrain")
    run("finetune", store, *recipe, *FINETUNE, *labels, *init, "--out", runs / "finetune")
    run("evaluate", runs / "finetune")
    run("predict", runs / "finetune", cohort.ratic, "--out", root / "predictions")
    assert (root / "predictions" / "submission.csv").is_file()

    made = [path for path in root.rglob("*") if not path.is_symlink()]
    assert not [path for path in made if path.stat().st_mode & 0o077]


@pytest.mark.slow
def test_a_service_user_runs_a_flow(shared: Path) -> None:
    """Prefect keeps its database in a home folder, which this user has not."""
    python = _python_of_any_user("numba", "torch", "prefect.server.api.server")
    assert "preprocess" in _run_voco(python, shared, "bench", "flow")


def _run_voco(python: str, folder: Path, *command: object) -> str:
    """Run `voco` as the service user and return what it printed."""
    words = [python, "-m", "flows.command", *map(str, command)]
    done = _run_as_service(words, {"TMPDIR": str(folder / "tmp")})
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr
