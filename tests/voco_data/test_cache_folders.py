"""A service user: any uid, no home, read-only code."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from voco_data import cache_folders


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The temporary folder of a user who can write nothing else."""
    monkeypatch.setattr(cache_folders, "_is_writable", lambda _folder: False)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv(cache_folders.MATPLOTLIB, "")
    monkeypatch.setenv(cache_folders.NUMBA, "")
    return tmp_path


def test_folders_are_private_and_kept(service: Path) -> None:
    cache_folders.provide_cache_folders()
    for variable, name in (
        (cache_folders.NUMBA, "numba"),
        (cache_folders.MATPLOTLIB, "matplotlib"),
    ):
        folder = service / f"voco-{name}-{os.getuid()}"
        assert os.environ[variable] == str(folder)
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        os.environ[variable] = ""
    cache_folders.provide_cache_folders()
    assert len(list(service.iterdir())) == 2


@pytest.mark.parametrize("kind", ["writable by others", "a link"])
def test_a_folder_that_others_could_fill_is_not_used(service: Path, kind: str) -> None:
    """numba runs the code that it finds there."""
    taken = service / f"voco-numba-{os.getuid()}"
    if kind == "a link":
        (service / "elsewhere").mkdir(mode=0o700)
        taken.symlink_to(service / "elsewhere")
    else:
        taken.mkdir()
        taken.chmod(0o777)
    cache_folders.provide_cache_folders()
    given = Path(os.environ[cache_folders.NUMBA])
    assert given != taken
    assert stat.S_IMODE(given.stat().st_mode) == 0o700


def test_a_variable_that_is_set_stays(service: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cache_folders.NUMBA, "/mine")
    cache_folders.provide_cache_folders()
    assert os.environ[cache_folders.NUMBA] == "/mine"
    assert not list(service.glob("voco-numba*"))
