"""Two archives of one root whose ids stand on paths: neither overwrites the other's rows."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.support.chaos_archive import write_nifti
from tests.support.ct_files import body, write_slices
from voco_data.ingest.estimation import Estimate, estimate
from voco_data.ingest.run import preprocess
from voco_data.maintenance.verification import verify_store
from voco_data.store.reader import Store
from voco_data.store.spec import StoreSpec

SMALL = StoreSpec(profile="small", grid=(6, 24, 24))

Write = Callable[[Path, int], None]
"""Writes the one series of an archive, with a seed for its pixels."""


def nifti(archive: Path, seed: int) -> None:
    (archive / "s0001").mkdir(parents=True, exist_ok=True)
    write_nifti(archive / "s0001" / "ct.nii.gz", seed)


def without_uids(archive: Path, seed: int) -> None:
    tags = {"PatientID": "", "StudyInstanceUID": "", "SeriesInstanceUID": ""}
    write_slices(archive / "1", body(seed=seed), tags=tags)


def anonymised_alike(archive: Path, seed: int) -> None:
    tags = {"PatientID": "", "StudyInstanceUID": "1.1", "SeriesInstanceUID": "1.2"}
    write_slices(archive / "1", body(seed=seed), tags=tags)


KINDS = [nifti, without_uids, anonymised_alike]


class Root:
    """A root that is filled from several archives of its parent folder."""

    def __init__(self, folder: Path, *, keep_ids: bool) -> None:
        self.folder = folder
        self.keep_ids = keep_ids
        (folder / "spec.json").write_text(SMALL.canonical_json())

    def run(self, archive: str, **options: Any) -> tuple[int, int, int]:
        given = {"spec_file": self.folder / "spec.json", "workers": 1, "keep_ids": self.keep_ids}
        summary = preprocess(self.folder / archive, self.folder / "root", **given, **options)
        self.table = pd.read_parquet(summary.ledger)
        return (summary.stored, summary.cached, summary.refused)

    def estimate(self, archive: str) -> Estimate:
        given = {"spec_file": self.folder / "spec.json", "workers": 1, "keep_ids": self.keep_ids}
        return estimate(self.folder / archive, self.folder / "root", **given)

    def digests(self) -> list[str]:
        """What the rows hold."""
        store = self.folder / "root" / SMALL.name
        assert verify_store(store).problems == ()
        return sorted(Store.open(store).catalogue["input_digest"])


@pytest.fixture(params=[True, False], ids=["kept", "pseudonyms"])
def root(tmp_path: Path, request: pytest.FixtureRequest) -> Root:
    return Root(tmp_path, keep_ids=request.param)


@pytest.mark.parametrize("write", KINDS)
def test_archives_with_equal_paths_do_not_overwrite_each_other(root: Root, write: Write) -> None:
    for seed, archive in enumerate("ab"):
        write(root.folder / archive, seed)
    assert root.run("a") == (1, 0, 0)
    before = root.digests()
    for options in ({}, {"deep": True}):
        assert root.run("b", **options) == (0, 0, 1)
        told = root.estimate("b")
        assert (told.to_do, told.cached, told.refused) == (0, 0, 1)
        assert root.table["reason"].tolist() == ["identity_conflict"]
        assert root.table["detail"].str.contains("another archive").all()
        assert root.run("a", **options) == (0, 1, 0)
        assert root.digests() == before


@pytest.mark.parametrize("write", KINDS)
def test_a_moved_archive_whose_file_changed_replaces_its_row(root: Root, write: Write) -> None:
    write(root.folder / "a", 1)
    root.run("a")
    before = root.digests()
    (root.folder / "a").rename(root.folder / "b")
    write(root.folder / "b", 2)
    assert root.run("b") == (1, 0, 0)
    after = root.digests()
    assert len(after) == 1
    assert after != before


def test_equal_contents_of_another_archive_are_cached(root: Root) -> None:
    nifti(root.folder / "a", 1)
    root.run("a")
    shutil.copytree(root.folder / "a", root.folder / "b")
    os.utime(root.folder / "b" / "s0001" / "ct.nii.gz", (0, 0))  # so that it is read
    assert root.run("b") == (0, 1, 0)
    assert root.run("b", deep=True) == (0, 1, 0)
    assert root.run("a") == (0, 1, 0)


def test_a_file_that_left_one_archive_may_change_in_another(root: Root) -> None:
    nifti(root.folder / "a", 1)
    write_nifti(root.folder / "a" / "other.nii.gz", 3)
    root.run("a")
    (root.folder / "b").mkdir()
    (root.folder / "a" / "s0001").rename(root.folder / "b" / "s0001")
    nifti(root.folder / "b", 2)
    assert root.run("b") == (1, 0, 0)
    assert len(root.digests()) == 2


def test_an_archive_that_was_refused_does_not_hinder_the_other(root: Root) -> None:
    for seed, archive in enumerate("ab"):
        nifti(root.folder / archive, seed)
    root.run("a")
    assert root.run("b") == (0, 0, 1)
    nifti(root.folder / "a", 3)
    assert root.run("a") == (1, 0, 0)
    assert len(root.digests()) == 1


def test_a_folder_above_an_archive_is_no_other_archive(root: Root) -> None:
    anonymised_alike(root.folder / "above" / "site", 1)
    assert root.run("above/site") == (1, 0, 0)
    anonymised_alike(root.folder / "above" / "site", 2)
    assert root.run("above") == (1, 0, 0)
    assert len(root.digests()) == 1
