"""A row is one series: patient, study and series id. Folders and pixels do not make another."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pandas as pd
import pytest

from flows.command import main
from tests.support.ct_files import body, write_slices
from voco_data.ingest.estimation import estimate
from voco_data.ingest.run import PreprocessSummary, preprocess
from voco_data.maintenance.garbage import collect_garbage
from voco_data.maintenance.verification import verify_store
from voco_data.qc import ledger
from voco_data.storage.local import LocalStorage
from voco_data.store import catalogue
from voco_data.store.reader import Store
from voco_data.store.record import read_record
from voco_data.store.row_ids import RowIds
from voco_data.store.spec import StoreSpec
from voco_data.store.writer import commit_volume, open_for_writing

SMALL = StoreSpec(profile="small", grid=(6, 24, 24))
IDS = {"PatientID": "one", "StudyInstanceUID": "1.2.1", "SeriesInstanceUID": "1.2.1.1"}


class Bench:
    """An archive and a root with one store."""

    def __init__(self, folder: Path) -> None:
        self.archive = folder / "archive"
        self.root = folder / "root"
        self.specs = folder / "specs.json"
        self.specs.write_text(SMALL.canonical_json())

    def write(self, folder: str, seed: int = 1, slices: slice = slice(None), **tags: str) -> None:
        write_slices(self.archive / folder, body(seed=seed)[slices], tags={**IDS, **tags})

    def run(self, **options: Any) -> tuple[tuple[int, int, int], pd.DataFrame]:
        summary = self.run_for_summary(**options)
        counts = (summary.stored, summary.cached, summary.refused)
        return counts, pd.read_parquet(summary.ledger)

    def run_for_summary(self, **options: Any) -> PreprocessSummary:
        given = {"spec_file": self.specs, "workers": 1, **options}
        return preprocess(self.archive, self.root, **given)

    @property
    def store(self) -> Path:
        return self.root / SMALL.name

    def lines(self) -> pd.DataFrame:
        return Store.open(self.store).catalogue

    def check(self, rows: int) -> None:
        """The store has this many rows, and neither damage nor garbage."""
        assert len(self.lines()) == rows
        assert verify_store(LocalStorage(self.store)).problems == ()
        assert not [item for item in collect_garbage(self.root).garbage if item.kind != "previews"]
        chunks = list((self.store / "volumes" / "c").glob("*/0/0/0"))
        records = list((self.store / "volumes" / "records").glob("*/*.json"))
        assert len(chunks) == len(records) == rows


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def write_nifti(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nibabel.Nifti1Image(body(seed=seed).transpose(2, 1, 0), np.diag([-2.0, -2.0, 5.0, 1]))
    nibabel.save(image, path)


@pytest.mark.parametrize("keep_ids", [True, False])
def test_a_series_that_grew_into_another_common_folder_replaces_its_row(
    bench: Bench, keep_ids: bool
) -> None:
    bench.write("p/1", slices=slice(12))
    assert bench.run(keep_ids=keep_ids)[0] == (1, 0, 0)
    paths = write_slices(bench.root.parent / "aside", body(seed=1), tags=IDS)
    (bench.archive / "p" / "2").mkdir()
    for path in paths[12:]:
        shutil.move(path, bench.archive / "p" / "2" / path.name)
    assert bench.run(keep_ids=keep_ids)[0] == (1, 0, 0)
    bench.check(rows=1)
    assert bench.lines()["n_slices"].tolist() == [24]
    assert bench.run(keep_ids=keep_ids)[0] == (0, 1, 0)


def test_a_renamed_file_with_one_bit_changed_replaces_the_row(bench: Bench) -> None:
    bench.write("p")
    bench.run()
    (bench.archive / "p").rename(bench.archive / "q")
    path = bench.archive / "q" / "0007.dcm"
    data = bytearray(path.read_bytes())
    data[-1200] ^= 1
    path.unlink()
    (bench.archive / "q" / "renamed.dcm").write_bytes(data)
    assert bench.run()[0] == (1, 0, 0)
    bench.check(rows=1)


def test_a_series_seen_from_a_folder_above_or_below_stays_one_row(bench: Bench) -> None:
    bench.write("site/p")
    assert bench.run(keep_ids=True)[0] == (1, 0, 0)
    bench.archive = bench.archive / "site"
    assert bench.run(keep_ids=True)[0] == (0, 1, 0)
    path = bench.archive / "p" / "0003.dcm"
    data = bytearray(path.read_bytes())
    data[-1200] ^= 1
    path.write_bytes(data)
    assert bench.run(keep_ids=True)[0] == (1, 0, 0)
    bench.check(rows=1)


def test_a_mask_that_comes_later_replaces_the_row(bench: Bench) -> None:
    write_nifti(bench.archive / "p" / "scan.nii.gz", seed=1)
    bench.run()
    mask = np.zeros((24, 60, 60), np.uint8)
    mask[8:16, 20:40, 20:40] = 1
    image = nibabel.Nifti1Image(mask.transpose(2, 1, 0), np.diag([-2.0, -2.0, 5.0, 1]))
    nibabel.save(image, bench.archive / "p" / "scan_seg.nii.gz")
    counts, table = bench.run()
    assert counts == (1, 0, 0)
    assert "mask" in table.query("kind == 'series'")["flags"].iloc[0]
    bench.check(rows=1)


def test_two_studies_that_share_a_series_uid_are_two_stable_rows(bench: Bench) -> None:
    bench.write("p", seed=1, StudyInstanceUID="1.2.1")
    for path in (bench.archive / "p").iterdir():
        path.rename(path.with_name(f"first-{path.name}"))
    bench.write("p", seed=2, StudyInstanceUID="1.2.2")
    assert bench.run()[0] == (2, 0, 0)
    before = {path: path.read_bytes() for path in bench.store.rglob("*.json")}
    for options in ({}, {"deep": True}):
        counts, table = bench.run(**options)
        assert counts == (0, 2, 0)
        assert table["study_uid"].nunique() == 2
        assert table["series_uid"].nunique() == 1
        assert {path: path.read_bytes() for path in bench.store.rglob("*.json")} == before
    bench.check(rows=2)


@pytest.mark.parametrize("keep_ids", [True, False])
def test_the_same_pixels_under_a_new_patient_id_get_a_row_of_their_own(
    bench: Bench, keep_ids: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    bench.write("p", PatientID="OLD")
    bench.run(keep_ids=keep_ids)
    shutil.rmtree(bench.archive)
    bench.write("p", PatientID="NEW")
    counts, table = bench.run(keep_ids=keep_ids)
    assert counts == (1, 0, 0)
    assert table["flags"].tolist() == ["duplicate"]
    assert len(set(bench.lines()["patient_id"])) == 2
    (old,) = set(bench.lines()["patient_id"]) - set(table["patient_id"])
    assert table["duplicate_of"].tolist() == [f"{old}/{table['series_uid'].iloc[0]}"]
    bench.check(rows=2)
    capsys.readouterr()
    assert main(["store", "forget", str(bench.root), "OTHER", "--yes"]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
    for patient, left in (("OLD", 1), ("NEW", 0)):
        if patient == "NEW":
            tables = map(pd.read_parquet, bench.root.glob(f"runs/*/{ledger.KEY}"))
            (row,) = pd.concat(tables).itertuples()
            assert (row.flags, row.duplicate_of) == ("", "")
        assert main(["store", "forget", str(bench.root), patient, "--yes", "--json"]) == 0
        told = json.loads(capsys.readouterr().out.splitlines()[-1])
        assert (told["removed"], told["series"]) == (True, 1)
        bench.check(rows=left)


def test_one_identity_with_two_contents_is_refused_and_overwrites_nothing(bench: Bench) -> None:
    write_nifti(bench.archive / "p" / "scan.nii.gz", seed=1)
    assert bench.run(keep_ids=True)[0] == (1, 0, 0)
    before = bench.lines()
    write_nifti(bench.archive / "p" / "scan.nii", seed=2)
    for options in ({}, {}, {"deep": True}):
        told = estimate(bench.archive, bench.root, spec_file=bench.specs, workers=1, keep_ids=True)
        counts, table = bench.run(keep_ids=True, **options)
        assert counts == (0, 0, 2)
        assert set(table["reason"]) == {"identity_conflict"}
        assert set(table["flags"]) == {"earlier_volume"}
        details = table.set_index("source")["detail"]
        assert details["p/scan.nii"].startswith("p/scan.nii.gz has the same")
        assert details["p/scan.nii.gz"].startswith("p/scan.nii has the same")
        pd.testing.assert_frame_equal(bench.lines(), before)
    assert (told.to_do, told.cached, told.refused) == (0, 0, 2)
    (bench.archive / "p" / "scan.nii.gz").unlink()
    assert bench.run(keep_ids=True)[0] == (1, 0, 0)
    bench.check(rows=1)


def test_a_refused_series_whose_volume_stays_is_flagged(bench: Bench) -> None:
    path = bench.archive / "p" / "scan.nii"
    write_nifti(path, seed=1)
    whole = path.read_bytes()
    for data, counts, flags in (
        (whole[:-5000], (0, 0, 1), ""),
        (whole, (1, 0, 0), ""),
        (whole[:-5000], (0, 0, 1), "earlier_volume"),
        (whole[:-5000], (0, 0, 1), "earlier_volume"),
    ):
        path.write_bytes(data)
        found, table = bench.run(keep_ids=True)
        assert (found, table["flags"].tolist()) == (counts, [flags])
    bench.check(rows=1)


@pytest.mark.parametrize("deep", [False, True])
def test_two_copies_of_one_identity_are_one_row(bench: Bench, deep: bool) -> None:
    write_nifti(bench.archive / "p" / "scan.nii.gz", seed=1)
    write_nifti(bench.archive / "p" / "scan.nii", seed=1)
    counts, table = bench.run(keep_ids=True)
    assert counts == (1, 1, 0)
    copy = table.set_index("status").loc["cached"]
    assert (copy["flags"], copy["duplicate_of"]) == ("duplicate", "p/scan")
    bench.check(rows=1)
    assert bench.run(keep_ids=True, deep=deep)[0] == (0, 2, 0)
    told = estimate(bench.archive, bench.root, spec_file=bench.specs, workers=1, keep_ids=True)
    assert (told.to_do, told.cached) == (0, 2)


def test_a_copy_that_cannot_be_read_leaves_the_other_one(bench: Bench) -> None:
    write_nifti(bench.archive / "p" / "scan.nii.gz", seed=1)
    write_nifti(bench.archive / "p" / "scan.nii", seed=1)
    torn = bench.archive / "p" / "scan.nii"
    torn.write_bytes(torn.read_bytes()[:-5000])
    counts, table = bench.run(keep_ids=True)
    assert counts == (1, 0, 1)
    assert table.set_index("status").loc["stored", "source"] == "p/scan.nii.gz"
    assert bench.run(keep_ids=True)[0] == (0, 1, 1)


def test_a_copied_folder_of_slices_is_one_row(bench: Bench) -> None:
    bench.write("p")
    shutil.copytree(bench.archive / "p", bench.archive / "copy")
    counts, table = bench.run()
    assert counts == (1, 0, 0)
    assert "dropped_duplicates" in table["flags"].iloc[0]
    bench.check(rows=1)


def make_older(bench: Bench, old_sources: Mapping[int, str]) -> None:
    """Make the store one of the version whose keys held the folder: row to folder of its series.

    Row 0 is copied to the other rows, as if the fault of that version had left them behind.
    """
    import xxhash

    spec = SMALL
    with open_for_writing(LocalStorage(bench.root), spec) as writer:
        storage = writer.storage
        record = read_record(storage, 0)
        assert record is not None
        volume = Store.open(bench.store).read(0)
        row_ids = RowIds(storage)
        row_ids.truncate(0)
        records = []
        for row, source in old_sources.items():
            records.append(replace(record, row=row, source=source, input_digest=f"{row:032x}"))
            commit_volume(storage, records[-1], volume, spec.compression)
            key = xxhash.xxh3_128_hexdigest(
                "\0".join((record.patient_id, record.series_uid, source)).encode()
            )
            row_ids.set(key, row)
        row_ids.save(storage)
        row_ids.close()
        catalogue.rewrite(storage, (), map(catalogue.line_from_record, records), from_scratch=True)


def test_an_older_root_keeps_the_later_of_two_rows_of_a_series(bench: Bench) -> None:
    bench.write("p")
    bench.run(keep_ids=True)
    make_older(bench, {0: "p", 1: "p/1", 2: "elsewhere"})
    problem = verify_store(bench.store).problems[0]
    assert "row 0: row 2 holds the same series" in problem
    (bench.root / "freshness.parquet").unlink()
    bench.write("q", seed=2, PatientID="two")
    with open_for_writing(LocalStorage(bench.root), SMALL):
        pass
    bench.check(rows=1)
    assert bench.lines()["row"].tolist() == [2]
    assert bench.lines()["input_digest"].tolist() == [f"{2:032x}"]
    counts, _ = bench.run(keep_ids=True)
    assert counts == (1, 1, 0)
    bench.check(rows=2)


def test_an_older_root_without_faults_keeps_its_rows(bench: Bench) -> None:
    bench.write("p")
    bench.run(keep_ids=True)
    digest = bench.lines()["input_digest"].iloc[0]
    make_older(bench, {0: "p"})
    damaged = bench.store / "volumes" / "c" / "0" / "0" / "0" / "0"
    damaged.write_bytes(bytes(len(damaged.read_bytes())))
    counts, _ = bench.run(keep_ids=True)
    assert counts == (1, 0, 0)
    assert bench.lines()["row"].tolist() == [0]  # a damaged row is filled again, in place
    assert bench.lines()["input_digest"].tolist() == [digest]
    bench.check(rows=1)
