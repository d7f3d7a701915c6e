"""The `voco` command in a process of its own: exit codes, signals, and an own Prefect."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.support import prefect_database as databases
from tests.support.project import PROJECT


def voco(*words: str | Path, cwd: Path = PROJECT) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, without the installed script."""
    return subprocess.run(
        [sys.executable, "-m", "flows.command", *words],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(PROJECT)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_missing_source_writes_nothing(tmp_path: Path) -> None:
    done = voco("preprocess", tmp_path / "none", "--root", tmp_path / "root")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_an_empty_source_writes_nothing(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    done = voco("preprocess", tmp_path / "empty", "--root", tmp_path / "root")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


def test_a_folder_that_is_no_store_is_refused(tmp_path: Path) -> None:
    done = voco("store", "info", tmp_path)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1


def test_version_is_the_installed_one() -> None:
    done = voco("--version")
    assert done.stdout.split() == ["voco", "0.1.0"]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory, prefect_database: Path) -> Path:
    """A folder whose demo/.prefect has its database: to make it takes seconds."""
    folder = tmp_path_factory.mktemp("prepared")
    databases.copy(prefect_database, folder / "demo" / ".prefect")
    return folder


def interrupted_demo(folder: Path, act: str) -> subprocess.CompletedProcess[str]:
    """`voco demo` in a process group of its own, with something else done for the cohort."""
    code = f"""
        import os, signal, sys
        from flows.command import main
        from voco_data.errors import InputError
        from voco_data.phantom import cohort

        def write_cohort(*_, **__):
            {act}

        cohort.write_cohort = write_cohort
        sys.exit(main(["demo", "--root", "demo"]))
    """
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(PROJECT)},
        capture_output=True,
        text=True,
        check=False,
        start_new_session=True,
    )


@pytest.mark.xdist_group("prefect")
@pytest.mark.parametrize(
    ("act", "code", "line"),
    [
        ("os.killpg(0, signal.SIGINT)", 130, "voco demo: stopped; what is finished stays"),
        pytest.param(
            "raise InputError('taken')", 2, "voco demo: error: taken", marks=pytest.mark.slow
        ),
    ],
)
def test_a_demo_that_stops_says_so_in_one_line(
    act: str, code: int, line: str, prepared: Path
) -> None:
    """Ctrl-C reaches every process of the command; Prefect's server must live to hear the end."""
    done = interrupted_demo(prepared, act)
    assert done.returncode == code, done.stderr
    said = done.stderr.splitlines()
    assert said[0].startswith("made-up cohort:")
    assert said[1].startswith(line)
    assert len(said) == 2, done.stderr


def test_the_demo_has_a_prefect_of_its_own(tmp_path: Path) -> None:
    code = f"""
        from pathlib import Path
        from flows.embedded import isolate_prefect
        isolate_prefect(Path("demo"))
        from prefect.settings import get_current_settings
        settings = get_current_settings()
        assert settings.home == Path({str(tmp_path)!r}) / "demo" / ".prefect", settings.home
        assert settings.api.url is None, settings.api.url
        assert settings.server.analytics_enabled is False
        assert settings.plugins.enabled is False
        try:
            isolate_prefect(Path("other"))
        except RuntimeError:
            print("too late is refused")
    """
    users = {
        "PREFECT_HOME": str(tmp_path / "users"),
        "PREFECT_API_URL": "http://127.0.0.1:9/api",
        "PREFECT_PLUGINS_ENABLED": "true",
        "PYTHONPATH": str(PROJECT),
    }
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        cwd=tmp_path,
        env=os.environ | users,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "too late is refused\n", done.stderr
    assert not (tmp_path / "users").exists()
