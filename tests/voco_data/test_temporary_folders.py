"""Temporary folders: killed processes leave them, the next run removes them, and no others."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.ct_files import body, write_slices
from tests.support.project import PROJECT
from voco_data import temporary_folders
from voco_data.temporary_folders import LOCK, MIN_AGE_S, sweep, temporary_folder

HOLD = """
import sys, time
from pathlib import Path
from voco_data.temporary_folders import temporary_folder
beside = Path(sys.argv[1]) if len(sys.argv) > 1 else None
with temporary_folder(beside) as folder:
    (folder / "volume").write_bytes(b"voxels of a patient")
    print(folder, flush=True)
    time.sleep(600)
"""


@pytest.fixture(autouse=True)
def tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The system's temporary folder, of this test alone; of its children, too."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setenv("PYTHONPATH", str(PROJECT))
    return folder


class Holder:
    """A process with a temporary folder."""

    def __init__(self, *words: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOLD, *words], stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        self.content = Path(self.process.stdout.readline().strip())
        self.folder = self.content.parent

    def kill(self) -> None:
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGKILL)
            self.process.communicate()


@pytest.fixture
def held() -> Iterator[Holder]:
    holder = Holder()
    yield holder
    holder.kill()


def make_old(folder: Path) -> None:
    before = time.time() - MIN_AGE_S - 1
    os.utime(folder, (before, before))


def test_a_folder_is_private_empty_and_removed(tmp: Path) -> None:
    with temporary_folder() as folder:
        assert list(folder.iterdir()) == []
        assert folder.parent.parent == tmp
        assert folder.parent.stat().st_mode & 0o777 == 0o700
        (folder / "file").write_text("text")
    assert list(tmp.iterdir()) == []


def test_a_folder_goes_when_its_block_fails(tmp: Path) -> None:
    with pytest.raises(KeyError), temporary_folder():
        raise KeyError
    assert list(tmp.iterdir()) == []


def test_a_folder_beside_a_path_can_become_it(tmp: Path) -> None:
    with temporary_folder(tmp / "out") as folder:
        (folder / "card").write_text("whole")
        folder.replace(tmp / "out")
    assert [path.name for path in tmp.iterdir()] == ["out"]
    assert [path.name for path in (tmp / "out").iterdir()] == ["card"]


@pytest.mark.parametrize("place", ["temporary", "beside"])
def test_what_a_killed_process_left_is_swept(tmp: Path, place: str) -> None:
    holder = Holder() if place == "temporary" else Holder(str(tmp / "out"))
    assert (holder.content / "volume").exists()
    holder.kill()
    assert (holder.content / "volume").exists()
    assert holder.folder.name.startswith(".") == (place == "beside")
    make_old(holder.folder)
    assert sweep(tmp) == 1
    assert list(tmp.iterdir()) == []


def test_the_next_folder_sweeps(tmp: Path, held: Holder) -> None:
    held.kill()
    make_old(held.folder)
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "from voco_data.temporary_folders import temporary_folder\nwith temporary_folder(): 0",
        ],
        check=False,
    )
    assert done.returncode == 0
    assert list(tmp.iterdir()) == []


def test_the_folder_of_a_living_process_stays_however_old(tmp: Path, held: Holder) -> None:
    make_old(held.folder)
    assert sweep(tmp) == 0
    assert (held.content / "volume").exists()


def test_a_stopped_process_lives(tmp: Path, held: Holder) -> None:
    held.process.send_signal(signal.SIGSTOP)
    make_old(held.folder)
    assert sweep(tmp) == 0
    assert (held.content / "volume").exists()


def test_a_young_folder_stays(tmp: Path, held: Holder) -> None:
    """Its process may be between making it and locking it."""
    held.kill()
    assert sweep(tmp) == 0
    assert held.folder.exists()


def test_two_runs_at_once_keep_theirs_and_one_removes_what_was_left(
    tmp: Path, held: Holder
) -> None:
    dead = Holder()
    dead.kill()
    for folder in (held.folder, dead.folder):
        make_old(folder)
    sweeps = [
        subprocess.Popen(
            [sys.executable, "-c", "from voco_data.temporary_folders import sweep; print(sweep())"],
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    assert sorted(int(each.communicate()[0]) for each in sweeps) == [0, 1]
    assert [path for path in tmp.iterdir() if path.is_dir()] == [held.folder]
    assert (held.content / "volume").exists()


@pytest.mark.parametrize("whose", ["another host", "another user", "another program"])
def test_folders_of_others_stay(tmp: Path, held: Holder, whose: str) -> None:
    held.kill()
    voco, host, user, random = held.folder.name.split("-")
    other = {
        "another host": f"{voco}-{int(host, 16) ^ 1:06x}-{user}-{random}",
        "another user": f"{voco}-{host}-{int(user) + 1}-{random}",
        "another program": f"voco-tests-{random}",
    }[whose]
    made = held.folder.rename(tmp / other)
    make_old(made)
    assert sweep(tmp) == 0
    assert (made / "content" / "volume").exists()


def test_a_folder_that_another_user_owns_stays(tmp: Path, held: Holder) -> None:
    """Also under a name that says otherwise."""
    if os.getuid() != 0:
        pytest.skip("only root can give a folder away")
    held.kill()
    os.chown(held.folder, 12_345, 12_345)
    make_old(held.folder)
    assert sweep(tmp) == 0
    assert held.folder.exists()


def test_a_link_is_not_followed(tmp: Path, held: Holder) -> None:
    held.kill()
    elsewhere = held.folder.rename(tmp / "elsewhere")
    make_old(elsewhere)
    held.folder.symlink_to(elsewhere)
    assert sweep(tmp) == 0
    assert (elsewhere / "content" / "volume").exists()


def test_a_folder_that_is_swept_before_it_is_locked_is_made_anew(
    tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if the process had been asleep for a minute in between."""
    make, made = temporary_folders.tempfile.mkdtemp, []

    def make_and_lose(**arguments: Any) -> str:
        made.append(make(**arguments))
        if len(made) == 1:
            shutil.rmtree(made[0])
        return made[-1]

    monkeypatch.setattr("voco_data.temporary_folders.tempfile.mkdtemp", make_and_lose)
    with temporary_folder() as folder:
        assert folder.parent == Path(made[1])
        assert folder.is_dir()
    assert list(tmp.iterdir()) == []


def test_a_folder_whose_lock_a_sweep_has_is_left_to_it(
    tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, made, locks = temporary_folders.tempfile.mkdtemp, [], []

    def make_and_lock(**arguments: Any) -> str:
        made.append(make(**arguments))
        if len(made) == 1:
            lock = os.open(Path(made[0], LOCK), os.O_RDWR | os.O_CREAT)
            temporary_folders.fcntl.flock(lock, temporary_folders.fcntl.LOCK_EX)
            locks.append(lock)
        return made[-1]

    monkeypatch.setattr("voco_data.temporary_folders.tempfile.mkdtemp", make_and_lock)
    with temporary_folder() as folder:
        assert folder.parent == Path(made[1])
    os.close(locks[0])


def test_sockets_of_worker_processes_are_in_a_folder_that_is_swept(
    tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a short folder: the path of a socket has at most 107 characters."""
    with tempfile.TemporaryDirectory(prefix="voco-short-", dir="/tmp") as short:
        monkeypatch.setenv("TMPDIR", short)
        monkeypatch.setattr("tempfile.tempdir", short)
        _check_swept_sockets(Path(short))


def _check_swept_sockets(tmp: Path) -> None:
    code = (
        "import multiprocessing.util as util, os\n"
        "from voco_data.executors.process_pool import _provide_socket_folder\n"
        "_provide_socket_folder()\n"
        "print(util.get_temp_dir(), flush=True)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL
    folder = Path(done.stdout.strip())
    assert list(tmp.iterdir()) == [folder]
    make_old(folder)
    assert sweep(tmp) == 1


@pytest.mark.slow
def test_a_killed_run_leaves_nothing_after_the_next(tmp: Path, tmp_path: Path) -> None:
    write_slices(tmp_path / "archive", body())
    words = ["preprocess", str(tmp_path / "archive"), "--root", str(tmp_path / "root")]
    command = [sys.executable, "-m", "flows.command", *words, "--workers", "2"]
    run = subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True)
    sockets: list[Path] = []
    deadline = time.monotonic() + 60
    while not sockets and time.monotonic() < deadline:
        sockets = list(tmp.glob("*/listener-*"))
        time.sleep(0.01)
    run.send_signal(signal.SIGKILL)
    run.wait()
    (left,) = tmp.iterdir()
    assert sockets[0].parent == left
    assert re.fullmatch(r"voco-[0-9a-f]{6}-\d+-\w{8}", left.name)
    make_old(left)
    done = subprocess.run(command, capture_output=True, check=False)
    assert done.returncode == 0
    assert list(tmp.iterdir()) == []
