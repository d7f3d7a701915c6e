"""A file that is added can change the identity of what is stored: no old row is left behind."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.support.chaos_archive import write_nifti
from tests.support.ct_files import body, write_slices
from voco_data.ingest.run import PreprocessSummary, preprocess
from voco_data.maintenance.garbage import collect_garbage
from voco_data.maintenance.verification import verify_store
from voco_data.store.reader import Store
from voco_data.store.spec import StoreSpec
from voco_data.store.writer import StoreWriter

SMALL = StoreSpec(profile="small", grid=(6, 24, 24))
OTHER = StoreSpec(profile="other", grid=(4, 16, 16))
UID = "1.2.1.1"


class Bench:
    """An archive, and a root with a store."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.archive = folder / "archive"
        for spec in (SMALL, OTHER):
            (folder / f"{spec.profile}.json").write_text(spec.canonical_json())

    def write(self, folder: str, seed: int = 1, prefix: str = "", n: int = 24, **tags: Any) -> None:
        values = {"PatientID": "one", "StudyInstanceUID": "1.2.1", "SeriesInstanceUID": UID}
        names = [f"{prefix}{k:02d}.dcm" for k in range(n)]
        write_slices(
            self.archive / folder, body(seed=seed)[:n], names=names, tags={**values, **tags}
        )

    def run(self, profile: str = "small", **options: Any) -> PreprocessSummary:
        given = {"spec_file": self.folder / f"{profile}.json", "workers": 1, "keep_ids": True}
        return preprocess(self.archive, self.folder / "root", **{**given, **options})

    def rows(self, spec: StoreSpec = SMALL) -> pd.DataFrame:
        store = self.folder / "root" / spec.name
        assert verify_store(store).problems == ()
        garbage = collect_garbage(self.folder / "root").garbage
        assert not [item for item in garbage if item.kind != "previews"]
        return Store.open(store).catalogue


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def add_kernel(bench: Bench) -> None:
    bench.write("a", seed=2, prefix="b", ConvolutionKernel="B70f")


def add_picture(bench: Bench) -> None:
    picture = body((1, 80, 80), seed=5)
    tags = {"PatientID": "one", "StudyInstanceUID": "1.2.1", "SeriesInstanceUID": UID}
    write_slices(bench.archive / "a", picture, names=["z.dcm"], tags=tags)


def add_another_study(bench: Bench) -> None:
    """A study UID for each slice; the added one comes first in their order."""
    shutil.rmtree(bench.archive / "a")
    bench.write("a", StudyInstanceUID=lambda k: f"1.2.{9 if k else 0}.{k}")


@pytest.mark.parametrize("keep_ids", [True, pytest.param(False, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("add", "n_rows"), [(add_kernel, 2), (add_picture, 1), (add_another_study, 1)]
)
def test_what_is_added_to_a_series_leaves_no_old_row(
    bench: Bench, keep_ids: bool, add: Callable[[Bench], None], n_rows: int
) -> None:
    if add is add_another_study:
        bench.write("a", n=23, StudyInstanceUID=lambda k: f"1.2.9.{k + 1}")
    else:
        bench.write("a", ConvolutionKernel="B30f")
    bench.run(keep_ids=keep_ids)
    old = set(bench.rows()["series_uid"] + bench.rows()["study_uid"])
    add(bench)
    summary = bench.run(keep_ids=keep_ids)
    assert summary.stored == n_rows
    rows = bench.rows()
    assert len(rows) == n_rows
    assert not old & set(rows["series_uid"] + rows["study_uid"])
    assert not pd.read_parquet(summary.ledger)["flags"].str.contains("duplicate").any()
    assert bench.run(keep_ids=keep_ids).cached == n_rows


def test_moved_folders_that_tell_scans_apart_leave_no_old_rows(bench: Bench) -> None:
    for seed, folder in enumerate("ab"):
        bench.write(folder, seed=seed, PatientID="")
    assert bench.run().stored == 2
    (bench.archive / "new").mkdir()
    for folder in "ab":
        (bench.archive / folder).rename(bench.archive / "new" / folder)
    assert bench.run().cached == 2  # their names within the folder above are the same
    for folder, name in ("ac", "bd"):
        (bench.archive / "new" / folder).rename(bench.archive / "new" / name)
    assert bench.run().stored == 2
    assert sorted(bench.rows()["source"]) == ["new/c", "new/d"]


def test_a_new_nifti_that_renames_a_patient_leaves_no_old_row(bench: Bench) -> None:
    for folder in ("a", "b"):
        (bench.archive / folder).mkdir(parents=True)
    write_nifti(bench.archive / "a" / "scan.nii.gz", 1)
    bench.run()
    assert bench.rows()["patient_id"].tolist() == ["scan"]
    write_nifti(bench.archive / "b" / "scan.nii.gz", 2)
    bench.run()
    assert sorted(bench.rows()["patient_id"]) == ["a", "b"]


def test_an_old_row_stays_if_no_new_stack_is_stored(bench: Bench) -> None:
    bench.write("a")
    bench.run()
    before = bench.rows()
    for path in list((bench.archive / "a").iterdir())[6:]:
        path.unlink()
    bench.write("a", seed=2, prefix="b", n=6, ConvolutionKernel="B70f")
    table = pd.read_parquet(bench.run().ledger)
    assert table["status"].tolist() == ["refused", "refused"]
    assert table["flags"].tolist() == ["earlier_volume"] * 2
    pd.testing.assert_frame_equal(bench.rows(), before)


def test_an_old_row_stays_if_another_archive_holds_it(bench: Bench) -> None:
    bench.write("a")
    bench.run()
    shutil.copytree(bench.archive, bench.folder / "copy")
    first, bench.archive = bench.archive, bench.folder / "copy"
    assert bench.run().cached == 1
    bench.archive = first
    add_kernel(bench)
    bench.run()
    assert len(bench.rows()) == 3


def test_filters_and_other_patients_and_studies_take_no_row(bench: Bench) -> None:
    bench.write("a", ConvolutionKernel="B30f")
    add_kernel(bench)
    bench.write("b", seed=3, PatientID="two")
    bench.write("c", seed=4, StudyInstanceUID="1.2.2")
    assert bench.run().stored == 4
    bench.run(include=["a/[!b]*"])
    assert len(bench.rows()) == 5
    shutil.rmtree(bench.archive / "b")
    shutil.rmtree(bench.archive / "c")
    bench.run()
    assert len(bench.rows()) == 4  # only `--prune` takes the other patient and study
    assert bench.run(prune=True, yes=True).pruned == 2


def test_a_killed_replacement_is_completed_in_every_store(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.write("a")
    for profile in ("small", "other"):
        bench.run(profile)
    add_kernel(bench)

    def die(self: StoreWriter, rows: object, keys: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(StoreWriter, "remove_rows", die)
        with pytest.raises(KeyboardInterrupt):
            bench.run()
    assert len(bench.rows()) == 3
    assert bench.run().cached == 2
    assert len(bench.rows()) == 2
    assert bench.run("other").stored == 2
    assert len(bench.rows(OTHER)) == 2
