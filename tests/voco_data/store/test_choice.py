"""What a user may give in place of a store: a root, a pattern, `latest`."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from tests.support.object_server import use
from tests.support.s3_server import S3Server
from voco_data.errors import InputError
from voco_data.storage import open_storage
from voco_data.store import CATALOGUE, GROUP_METADATA, choose_store, choose_stores

OLD, NEW, OTHER = (
    "pretrain-aaaaaaaaaaaa.zarr", "pretrain-000000000000.zarr", "finetune-bbbbbbbbbbbb.zarr",
)  # fmt: skip


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two stores of one profile, the second by name written first, and one of another profile."""
    for name, seconds in ((OLD, 1_000), (NEW, 2_000), (OTHER, 3_000)):
        folder = tmp_path / name
        (folder / CATALOGUE).parent.mkdir(parents=True)
        (folder / GROUP_METADATA).write_text("{}")
        (folder / CATALOGUE).write_bytes(b"")
        os.utime(folder / CATALOGUE, (seconds, seconds))
    (tmp_path / "previews").mkdir()
    return tmp_path


def test_a_store_stays_as_it_was_given(root: Path) -> None:
    assert choose_stores([root / OLD, f"{root / OTHER}/"], "pretrain") == [
        root / OLD, f"{root / OTHER}/"
    ]  # fmt: skip


def test_a_root_is_its_one_store_of_the_profile(root: Path) -> None:
    assert choose_store(root, "finetune") == root / OTHER
    assert choose_store(f"{root}/", "finetune") == root / OTHER


def test_the_latest_is_by_time_of_the_catalogue(root: Path) -> None:
    assert choose_store(root / "latest", "pretrain") == root / NEW
    os.utime(root / OLD / CATALOGUE, (4_000, 4_000))
    assert choose_store(str(root / "latest"), "pretrain") == root / OLD
    (root / OLD / CATALOGUE).unlink()  # no run has ended
    assert choose_store(root / "latest", "pretrain") == root / NEW


def test_a_pattern_is_all_that_match(root: Path) -> None:
    assert choose_stores([root / "pretrain-*.zarr"], "x") == [root / NEW, root / OLD]
    assert choose_stores([root / "*-[b]*"], "x") == [root / OTHER]


def test_a_root_may_be_called_latest(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("x") / "latest"
    root.rename(folder)
    assert choose_store(folder, "finetune") == folder / OTHER


@pytest.mark.parametrize(
    ("place", "profile", "message"),
    [
        (
            "",
            "pretrain",
            f"expected one store pretrain, got {NEW}, {OLD}; name one, or give .*/latest",
        ),
        ("", "localise", f"expected a store localise-....zarr, got {OTHER}, {NEW}, {OLD}"),
        ("latest", "localise", "expected a store localise"),
        ("localise-*", "localise", "expected a pattern of names of stores, it matches none"),
        ("pretrain-*", "pretrain", f"expected one store, got {NEW}, {OLD}; name one"),
    ],
)
def test_what_means_no_store_is_one_line(
    root: Path, place: str, profile: str, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        choose_store(root / place, profile)


def test_the_latest_store_without_a_catalogue_is_none(root: Path) -> None:
    (root / OTHER / CATALOGUE).unlink()
    with pytest.raises(InputError, match="expected a store that a run has filled"):
        choose_store(root / "latest", "finetune")


def test_other_places_are_left_to_the_reader(tmp_path: Path) -> None:
    """It says what is wrong with them."""
    (tmp_path / "empty").mkdir()
    places = [tmp_path / "missing", tmp_path / "empty"]
    assert choose_stores(places, "pretrain") == places


def test_a_bucket(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, s3_server.environment)
    root = f"{s3_server.root}/choice"
    storage = open_storage(root)
    for name in (NEW, OTHER, OLD):
        (storage / name).write(GROUP_METADATA, b"{}")
        (storage / name).write(CATALOGUE, b"")
    time.sleep(1.1)  # a bucket tells whole seconds
    (storage / NEW).write(CATALOGUE, b"again")
    assert choose_store(root, "finetune") == f"{root}/{OTHER}"
    assert choose_stores([f"{root}/pretrain-*"], "x") == [f"{root}/{NEW}", f"{root}/{OLD}"]
    assert choose_store(f"{root}/latest", "pretrain") == f"{root}/{NEW}"
    assert (storage / OLD).last_written("missing") is None
