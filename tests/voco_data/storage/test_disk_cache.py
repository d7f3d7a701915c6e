"""The cache of this machine: bounded in size, private to its user, shared by processes."""

from __future__ import annotations

import multiprocessing
import os
import stat
from pathlib import Path

import numpy as np
import pytest
import xxhash

from voco_data.errors import InputError
from voco_data.storage.disk_cache import LocalCache, user_cache

CHUNK = 1024
"""Bytes of one copy."""


def cache_of(folder: Path, chunks: int) -> LocalCache:
    return LocalCache(folder / "objects", chunks * CHUNK)


def sizes(folder: Path) -> dict[str, int]:
    return {p.name: p.stat().st_size for p in folder.rglob("*") if p.is_file() and p.name[0] != "."}


def chunk(number: int) -> bytes:
    return np.random.default_rng(number).bytes(CHUNK)


def name(number: int) -> str:
    return xxhash.xxh3_128_hexdigest(chunk(number))


def test_the_least_recently_used_copies_make_room(tmp_path: Path) -> None:
    cache = cache_of(tmp_path, 10)
    for number in range(10):
        path = cache.add(name(number), chunk(number))
        os.utime(path, (number, number))  # in the order of their numbers
    assert cache.find(name(0)) is not None  # used just now
    cache.add(name(10), chunk(10))
    kept = {number for number in range(11) if cache.find(name(number)) is not None}
    assert kept == {0, *range(3, 11)}  # room for one more than 9 tenths


def test_its_size_is_bounded(tmp_path: Path) -> None:
    cache = cache_of(tmp_path, 7)
    for number in range(40):
        cache.add(name(number), chunk(number))
        assert sum(sizes(tmp_path).values()) <= 7 * CHUNK
    again = cache_of(tmp_path, 3)  # the user gave it less
    again.add(name(41), chunk(41))
    assert sum(sizes(tmp_path).values()) <= 3 * CHUNK


def test_partial_copies_of_killed_writers_are_removed(tmp_path: Path) -> None:
    cache = cache_of(tmp_path, 4)
    left = cache.add(name(0), chunk(0)).with_name(".half.1.0123abcd.tmp")
    left.write_bytes(chunk(1))
    os.utime(left, (1, 1))
    for number in range(2, 8):
        cache.add(name(number), chunk(number))
    assert not left.exists()


def fill(folder: Path, first: int) -> None:
    cache = cache_of(folder, 8)
    for number in range(first, first + 30):
        path = cache.add(name(number), chunk(number))
        try:
            data = path.read_bytes()
        except FileNotFoundError:  # the others needed the room
            continue
        assert data == chunk(number)


def test_processes_share_it(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    ranks = [context.Process(target=fill, args=(tmp_path, first)) for first in (0, 10, 20)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join()
    assert [rank.exitcode for rank in ranks] == [0, 0, 0]
    found = sizes(tmp_path)
    assert 0 < sum(found.values()) <= 8 * CHUNK
    for path in tmp_path.rglob("*"):
        if path.name in found:
            assert xxhash.xxh3_128_hexdigest(path.read_bytes()) == path.name


def test_other_users_cannot_read_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VOCO_CACHE", str(tmp_path / "c"))
    cache = user_cache()
    path = cache.add(name(0), chunk(0))
    assert path.is_relative_to(tmp_path / "c")
    assert stat.S_IMODE(cache.folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_the_user_sets_folder_and_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VOCO_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    monkeypatch.setenv("VOCO_CACHE_GB", "0.5")
    assert user_cache() == LocalCache(tmp_path / "x/voco/objects", 500_000_000)
    monkeypatch.delenv("VOCO_CACHE_GB")
    free = os.statvfs(tmp_path)
    assert 0 < user_cache().limit_bytes <= free.f_bavail * free.f_frsize
    for text in ("much", "0", "-1", "inf"):
        monkeypatch.setenv("VOCO_CACHE_GB", text)
        with pytest.raises(InputError, match="VOCO_CACHE_GB"):
            user_cache()
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("VOCO_CACHE", str(tmp_path / "file"))
    with pytest.raises(InputError, match="VOCO_CACHE"):
        user_cache()


def test_the_default_folder_is_in_the_users_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("VOCO_CACHE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", "")  # as good as unset
    assert user_cache().folder == tmp_path / ".cache/voco/objects"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert user_cache().folder == tmp_path / ".cache/voco/objects"
