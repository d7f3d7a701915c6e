"""Files are replaced; a folder, a pipe or a device is not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from voco_data.errors import InputError
from voco_data.storage import atomic


def test_a_file_is_written_and_replaced(tmp_path: Path) -> None:
    for text in ("one", "two"):
        atomic.write_text(tmp_path / "new" / "file", text)
        assert (tmp_path / "new" / "file").read_text() == text
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["file"]


@pytest.mark.parametrize("linked", [False, True])
@pytest.mark.parametrize("kind", ["pipe", "folder"])
def test_what_is_no_file_is_not_replaced(tmp_path: Path, kind: str, linked: bool) -> None:
    """The mode of a device is told like that of a pipe, which a test may risk."""
    path = tmp_path / kind
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.mkdir()
    before = path.stat()
    target = tmp_path / "link" if linked else path
    if linked:
        target.symlink_to(path)
    with pytest.raises(InputError, match=r"expected a file to write, got a (pipe|folder)"):
        atomic.write_text(target, "text")
    assert path.stat().st_ino == before.st_ino
    assert path.stat().st_mode == before.st_mode
    assert {each.name for each in tmp_path.iterdir()} == {path.name, target.name}


def test_a_device_is_told_without_writing() -> None:
    with pytest.raises(InputError, match="got a pipe or a device"):
        atomic.check_replaceable(Path("/dev/null"))
