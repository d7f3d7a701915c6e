"""A disk that is full or read-only in mid-run: one clear line, and a rerun that goes on."""

from __future__ import annotations

import contextlib
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.support import store_truth
from tests.support.chaos_archive import make_archive, words, write_specs
from tests.support.zygote import Zygote
from voco_data.errors import VocoError
from voco_data.ingest.disk_space import SPARE_BYTES
from voco_data.ingest.run import preprocess

WATCH_S = 60.0


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    return make_archive(tmp_path / "archive")


@pytest.fixture
def specs(tmp_path: Path) -> Path:
    return write_specs(tmp_path / "specs.json")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, a little larger than what must be free."""
    folder = tmp_path / "disk"
    folder.mkdir()
    size = f"size={SPARE_BYTES + 2**22}"
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(folder)], capture_output=True, text=True
    )
    if done.returncode != 0:
        pytest.skip(f"cannot mount a small file system here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def said(log: Path) -> list[str]:
    """What a run said beside its progress bars."""
    lines = log.read_text().replace("\r", "\n").splitlines()
    return [line for line in lines if line and "|" not in line and "files" not in line]


def fill_up(disk: Path, leave: int) -> Path:
    """Take all space of a disk but `leave` bytes."""
    ballast = disk / "ballast"
    free = psutil.disk_usage(str(disk)).free
    left = free - leave
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
        while left > 0:
            left -= file.write(b"\1" * min(left, 2**20))
    return ballast


def once(happens: Path, pattern: str, then: object) -> threading.Thread:
    """Call `then` once a file of this pattern has appeared."""

    def watch() -> None:
        deadline = time.monotonic() + WATCH_S
        while not any(happens.glob(pattern)) and time.monotonic() < deadline:
            time.sleep(0.002)
        then()  # type: ignore[operator]

    thread = threading.Thread(target=watch)
    thread.start()
    return thread


FILES = {
    "a record": "*.zarr/volumes/records/*/*.json",
    "the catalogue": "*.zarr/volumes/catalogue.parquet",
    "freshness": "freshness.parquet",
}
FAST = {("a record", 0), ("the catalogue", 8_192), ("freshness", 40_000)}


@pytest.mark.parametrize(
    ("moment", "leave"),
    [
        pytest.param(name, leave, marks=() if (name, leave) in FAST else pytest.mark.slow)
        for name in FILES
        for leave in (0, 8_192, 40_000)
    ],
)
def test_a_full_disk_is_one_line_and_a_rerun_goes_on(
    zygote: Zygote, small_disk: Path, archive: Path, specs: Path, moment: str, leave: int
) -> None:
    root, log = small_disk / "root", archive.parent / "log"
    line = words(archive, root, specs)
    zygote.start(line, log, shared=True)
    thread = once(root, FILES[moment], lambda: fill_up(small_disk, leave))
    code = zygote.end()
    thread.join()
    assert code in (0, 1)  # what is left of the disk may just do
    if code == 1:
        assert "Traceback" not in log.read_text()
        assert said(log)[-1].startswith("voco preprocess: error: ")
        assert "No space left on device" in said(log)[-1]
        assert "run again" in said(log)[-1]
    store_truth.check_root(root)
    before = store_truth.committed(root)
    assert zygote.run(line, log, shared=True) == 1  # too little is free to begin with
    assert "GB free" in said(log)[-1]
    (small_disk / "ballast").unlink()
    assert zygote.run(line, log, shared=True) == 0
    store_truth.check_finished(root)
    after = store_truth.committed(root)
    assert {path: after[path] for path in before} == before


@pytest.mark.parametrize(
    "folder",
    [
        "records",
        pytest.param("volumes", marks=pytest.mark.slow),
        pytest.param("root", marks=pytest.mark.slow),
    ],
)
def test_a_folder_that_becomes_read_only_is_one_line(
    zygote: Zygote, archive: Path, specs: Path, folder: str
) -> None:
    base = archive.parent
    root, log = base / "root", base / "log"
    root.mkdir()
    log.touch()
    line = words(archive, root, specs)
    changed: dict[Path, int] = {}

    def forbid() -> None:
        places = {
            "records": [*root.glob("*.zarr/volumes/c"), *root.glob("*.zarr/volumes/records/*")],
            "volumes": [*root.glob("*.zarr/volumes"), *root.glob("*.zarr/volumes/c")],
            "root": [root, *root.glob("*.zarr/volumes/c")],
        }[folder]
        for place in places:
            changed[place] = place.stat().st_mode
            place.chmod(0o555)

    # Workers of its own: those of the zygote may write everywhere, if we are root.
    zygote.start(line, log, humble=True)
    thread = once(root, "*.zarr/volumes/records/*/*.json", forbid)
    code = zygote.end()
    thread.join()
    assert code == 1, log.read_text()
    assert "Traceback" not in log.read_text()
    assert "Permission denied" in said(log)[-1]
    store_truth.check_root(root)
    before = store_truth.committed(root)
    for place, mode in changed.items():
        place.chmod(mode)
    assert zygote.run(line, log, humble=True) == 0, log.read_text()
    store_truth.check_finished(root)
    after = store_truth.committed(root)
    assert {path: after[path] for path in before} == before


def test_too_little_space_to_begin_with_is_one_line(
    small_disk: Path, archive: Path, specs: Path
) -> None:
    fill_up(small_disk, 10_000_000)
    with pytest.raises(VocoError, match="GB free") as caught:
        preprocess(archive, small_disk / "root", spec_file=specs, workers=1)
    assert caught.value.exit_code == 1
