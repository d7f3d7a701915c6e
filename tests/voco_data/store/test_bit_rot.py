"""Bit rot in any file of a store: it is named, it is refused, and a rerun rebuilds just that."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import xxhash

from tests.support import store_truth
from tests.support.chaos_archive import SPECS, make_archive, write_specs
from tests.support.ct_files import body, write_slices
from voco_data.errors import InputError, StoreCorrupt
from voco_data.ingest.run import PreprocessSummary, preprocess
from voco_data.maintenance.listing import list_stores
from voco_data.maintenance.verification import verify_store
from voco_data.storage.base import Storage
from voco_data.storage.local import LocalStorage
from voco_data.store import integrity
from voco_data.store.integrity import VerifiedStamps
from voco_data.store.reader import Store
from voco_data.store.spec import StoreSpec

ROW = 4
STORE = SPECS[0].name
CHUNK = f"{STORE}/volumes/c/{ROW}/0/0/0"
ROWS = f"{STORE}/volumes/rows.parquet"
RECORD = f"{STORE}/volumes/records/000000/{ROW:09d}.json"


def flip(path: Path, at: float = 0.5) -> None:
    """Flip one bit in place, as a disk would: the file keeps its size."""
    with path.open("r+b") as file:
        size = path.stat().st_size
        file.seek(int(at * size))
        byte = file.read(1)[0]
        file.seek(int(at * size))
        file.write(bytes([byte ^ 4]))


def flip_silently(path: Path) -> None:
    """The same, and the file's time of change is put back."""
    stat = path.stat()
    flip(path)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def empty(path: Path) -> None:
    os.truncate(path, 0)


def make_unreadable(path: Path) -> None:
    """Whoever reads it gets EIO, as from a bad sector: address 0 of a process has no page."""
    path.unlink()
    path.symlink_to("/proc/self/mem")


HARMS: dict[str, Callable[[Path], None]] = {
    "flip": flip,
    "flip silently": flip_silently,
    "truncate": truncate,
    "empty": empty,
    "remove": Path.unlink,
    "unreadable": make_unreadable,
}


class Rotten:
    """An archive, its stores, and what they looked like when they were whole."""

    def __init__(self, archive: Path, root: Path, specs: Path) -> None:
        self.archive, self.root, self.specs = archive, root, specs
        self.whole = store_truth.snapshot(root)
        self.files = store_truth.committed(root)
        self.store = root / STORE
        self.series = store_truth.read_catalogue(self.store)[ROW]["series_uid"]

    def run(self, **options: object) -> PreprocessSummary:
        return preprocess(
            self.archive,
            self.root,
            spec_file=self.specs,
            workers=1,
            keep_ids=True,
            **options,  # type: ignore[arg-type]
        )

    def check_rebuilt(
        self, summary: PreprocessSummary, stored: int, *, but: str = "nothing"
    ) -> None:
        """Everything `but` one file is as it was; no row other than ROW was written again."""
        assert (summary.stored, summary.cached) == (stored, 7 - stored)
        store_truth.check_finished(self.root)
        found = store_truth.snapshot(self.root)
        assert {name for name in self.whole if found.get(name) != self.whole[name]} <= {but}
        assert set(found) == set(self.whole)
        now = store_truth.committed(self.root)
        redone = {str(p.relative_to(self.root)) for p in now if now[p] != self.files[p]}
        assert redone <= {CHUNK, RECORD}
        for spec in SPECS:
            assert verify_store(self.root / spec.name).problems == ()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    folder = tmp_path_factory.mktemp("rot")
    archive, specs = make_archive(folder / "archive"), write_specs(folder / "specs.json")
    preprocess(archive, folder / "root", spec_file=specs, workers=1, keep_ids=True)
    return archive, folder / "root", specs


@pytest.fixture
def rotten(made: tuple[Path, Path, Path], tmp_path: Path) -> Rotten:
    archive, root, specs = made
    copy = Path(shutil.copytree(root, tmp_path / "root"))
    preprocess(
        archive, copy, spec_file=specs, workers=1, keep_ids=True
    )  # a moved root is checked once
    return Rotten(archive, copy, specs)


@pytest.mark.parametrize("harm", HARMS)
@pytest.mark.parametrize("file", [CHUNK, RECORD], ids=["chunk", "record"])
def test_a_damaged_row_is_named_and_rebuilt_alone(rotten: Rotten, file: str, harm: str) -> None:
    HARMS[harm](rotten.root / file)
    problems = verify_store(rotten.store).problems
    assert len(problems) == 1
    assert rotten.series in problems[0]
    assert f"row {ROW}" in problems[0]
    rotten.check_rebuilt(rotten.run(), stored=1)


@pytest.mark.parametrize("harm", HARMS)
def test_training_refuses_a_damaged_chunk_and_a_plain_rerun_rebuilds_it(
    rotten: Rotten, harm: str
) -> None:
    HARMS[harm](rotten.root / CHUNK)
    with pytest.raises(StoreCorrupt, match=rotten.series):
        Store.open(rotten.store).read(ROW)
    rotten.check_rebuilt(rotten.run(), stored=1)


@pytest.mark.parametrize("file", [CHUNK, RECORD], ids=["chunk", "record"])
@pytest.mark.parametrize("harm", HARMS)
def test_a_plain_rerun_finds_it_by_itself(rotten: Rotten, file: str, harm: str) -> None:
    HARMS[harm](rotten.root / file)
    rotten.check_rebuilt(rotten.run(), stored=1)


def seal(store: Path) -> None:
    """Make the seal match, as if nothing had been written."""
    with closing(VerifiedStamps(LocalStorage(store))) as stamps:
        for row, stamp, _ in stamps.compare([ROW]):
            stamps.set(row, stamp)
        stamps.save()


def test_what_changes_while_it_is_checked_is_not_sealed(
    rotten: Rotten, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_row = integrity.check_row

    def check_and_harm(store: Storage, spec: StoreSpec, row: int) -> integrity.RowCheck:
        found = check_row(store, spec, row)
        if spec.name == STORE and row == ROW:
            flip(rotten.root / CHUNK)
        return found

    monkeypatch.setattr("voco_data.store.integrity.check_row", check_and_harm)
    os.utime(rotten.root / CHUNK)  # touched: it is checked, and found right
    assert rotten.run().cached == 7
    monkeypatch.undo()
    rotten.check_rebuilt(rotten.run(), stored=1)


def test_deep_finds_what_left_no_trace(rotten: Rotten) -> None:
    """A disk that rots changes no time at all: here the seal is made to match."""
    flip(rotten.root / CHUNK)
    seal(rotten.store)
    assert rotten.run().cached == 7
    rotten.check_rebuilt(rotten.run(deep=True), stored=1)
    flip(rotten.root / CHUNK)
    seal(rotten.store)
    assert len(verify_store(rotten.store).problems) == 1  # and verify tells the plain rerun
    rotten.check_rebuilt(rotten.run(), stored=1)


@pytest.mark.parametrize("harm", ["flip", "truncate", "empty", "remove"])
@pytest.mark.parametrize(
    "file",
    [
        f"{STORE}/volumes/catalogue.parquet",
        ROWS,
        f"{STORE}/volumes/seals.parquet",
        f"{STORE}/volumes/zarr.json",
        f"{STORE}/valid/zarr.json",
        f"{STORE}/valid/c/0",
        "freshness.parquet",
    ],
)
def test_bookkeeping_is_made_again_and_no_volume_is_read_again(
    rotten: Rotten, file: str, harm: str
) -> None:
    HARMS[harm](rotten.root / file)
    # Without freshness the refused series is read again, the others are found in the records.
    # Without rows, nobody knows any more which hole the refused series has left.
    rotten.check_rebuilt(rotten.run(), stored=0, but=ROWS if file == ROWS else "nothing")


@pytest.mark.parametrize("harm", ["truncate", "empty", "remove"])
def test_lost_group_metadata_is_written_again(rotten: Rotten, harm: str) -> None:
    HARMS[harm](rotten.store / "zarr.json")
    with pytest.raises(InputError, match="cannot read its metadata"):
        verify_store(rotten.store)
    rotten.check_rebuilt(rotten.run(), stored=0)


def test_both_tables_lost_at_once(rotten: Rotten) -> None:
    for name in ("catalogue", "rows", "seals"):
        (rotten.store / "volumes" / f"{name}.parquet").unlink()
    (rotten.root / "freshness.parquet").unlink()
    rotten.check_rebuilt(rotten.run(), stored=0, but=ROWS)


@pytest.mark.parametrize(
    ("file", "says"),
    [
        ("volumes/zarr.json", "volumes/zarr.json does not describe"),
        ("valid/zarr.json", "valid/zarr.json does not describe"),
        ("valid/c/0", "valid/c/0 does not say"),
    ],
)
def test_verify_names_damaged_metadata(rotten: Rotten, file: str, says: str) -> None:
    truncate(rotten.store / file)
    assert any(says in problem for problem in verify_store(rotten.store).problems)


FORGERIES: dict[str, Callable[[Any], object]] = {
    "keys with dots": lambda data: data["chunk_key_encoding"].update(
        configuration={"separator": "."}
    ),
    "keys of Zarr v2": lambda data: data["chunk_key_encoding"].update(name="v2"),
    "no keys": lambda data: data.pop("chunk_key_encoding"),
    "transformers": lambda data: data.update(storage_transformers=[{"name": "sharding"}]),
    "compressed": lambda data: data["codecs"].append({"name": "gzip"}),
    "another grid": lambda data: data["shape"].__setitem__(1, 3),
    "a shape of a terabyte": lambda data: data["shape"].__setitem__(0, 10**12),
    "a shape that is true": lambda data: data["shape"].__setitem__(0, True),
    "a number for an object": lambda data: data.update(chunk_grid=3),
}


@pytest.mark.parametrize("forgery", FORGERIES)
def test_metadata_that_other_tools_would_believe_is_checked(rotten: Rotten, forgery: str) -> None:
    path = rotten.store / "volumes/zarr.json"
    data = json.loads(path.read_text())
    FORGERIES[forgery](data)
    path.write_text(json.dumps(data))
    problems = verify_store(rotten.store).problems
    assert any("volumes/zarr.json does not describe" in problem for problem in problems)
    rotten.check_rebuilt(rotten.run(), stored=0)


def test_a_shape_of_many_rows_that_nobody_wrote_costs_nothing(rotten: Rotten) -> None:
    """Within what is possible: nobody looks for 99 million volumes."""
    for name in ("volumes", "valid"):
        path = rotten.store / name / "zarr.json"
        data = json.loads(path.read_text())
        data["shape"][0] = 99_000_000
        path.write_text(json.dumps(data))
    (rotten.store / "volumes/catalogue.parquet").unlink()
    rotten.check_rebuilt(rotten.run(), stored=0)


def test_brackets_without_end_are_one_line_and_other_stores_are_listed(rotten: Rotten) -> None:
    for name in ("zarr.json", "volumes/zarr.json", "valid/zarr.json"):
        (rotten.store / name).write_text("[" * 200_000)
    listed = list_stores(rotten.root)
    assert [store["name"] for store in listed["stores"]] == [SPECS[1].name]  # type: ignore[attr-defined]
    (problem,) = listed["problems"]  # type: ignore[misc]
    assert "cannot read its metadata" in problem
    assert "\n" not in problem
    rotten.check_rebuilt(rotten.run(), stored=0)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("row", 10**12),
        ("row", ROW + 1),
        ("row", True),
        ("permutation", [0, 1, 1]),
        ("permutation", [2, 1]),
        ("flips", [0, 1, 0]),
        ("shape", [8, -1, 8]),
        ("canonical_shape", [8.0, 8, 8]),
    ],
)
def test_a_forged_record_is_refused_and_rebuilt(rotten: Rotten, field: str, value: object) -> None:
    """Its checksum is right: whoever writes a record can compute it."""
    path = rotten.root / RECORD
    body = json.loads(json.loads(path.read_text())["record"])
    text = json.dumps(body | {field: value}, sort_keys=True, separators=(",", ":"))
    checksum = xxhash.xxh3_128_hexdigest(text.encode())
    path.write_text(json.dumps({"xxh3_128": checksum, "record": text}) + "\n")
    problems = verify_store(rotten.store).problems
    assert any(rotten.series in problem for problem in problems)
    rotten.check_rebuilt(rotten.run(), stored=1)


def test_keys_of_rows_that_cannot_be_are_no_rows(rotten: Rotten) -> None:
    """A record in the folder of other rows, with more digits, or of a row beyond all bounds."""
    records = rotten.store / "volumes/records"
    forged = ("000007/000000004.json", "000000/1000000000000.json", "999999/999999999.json")
    for name in forged:
        (records / name).parent.mkdir(exist_ok=True)
        shutil.copy(rotten.root / RECORD, records / name)
    (rotten.store / "volumes/catalogue.parquet").unlink()
    assert rotten.run().stored == 0
    assert max(Store.open(rotten.store).rows) < 100
    assert verify_store(rotten.store).problems == ()


def test_verify_names_a_damaged_catalogue(rotten: Rotten) -> None:
    path = rotten.store / "volumes/catalogue.parquet"
    data = path.read_bytes()
    path.write_bytes(data[:4] + bytes(len(data) // 2) + data[4 + len(data) // 2 :])
    with pytest.raises(StoreCorrupt, match="catalogue"):
        verify_store(rotten.store)


def test_no_flip_in_a_catalogue_is_believed(rotten: Rotten) -> None:
    """Byte by byte: it is refused, or says the same as before, or verify sees that it differs."""
    path = rotten.store / "volumes/catalogue.parquet"
    data = path.read_bytes()
    before = Store.open(rotten.store).catalogue
    lies = []
    for at in range(0, len(data), 97):
        path.write_bytes(data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :])
        try:
            opened = Store.open(rotten.store).catalogue
        except StoreCorrupt:
            continue
        if not opened.equals(before):
            lies.append(at)
    assert lies == []


def test_verify_names_what_is_not_listed(rotten: Rotten) -> None:
    shutil.copytree(rotten.store / f"volumes/c/{ROW}", rotten.store / "volumes/c/17")
    record = json.loads((rotten.root / RECORD).read_text())
    (rotten.store / "volumes/records/000000/000000018.json").write_text(json.dumps(record))
    problems = verify_store(rotten.store).problems
    assert len(problems) == 2
    assert "row 18: a record" in problems[0]
    assert "row 17: a chunk" in problems[1]


def test_a_damaged_row_of_another_archive_stays_named(rotten: Rotten, tmp_path: Path) -> None:
    flip(rotten.root / CHUNK)
    other = tmp_path / "other"
    write_slices(other / "z", body(seed=77), tags={"PatientID": "z"})
    preprocess(other, rotten.root, spec_file=rotten.specs, workers=1, keep_ids=True)
    assert [rotten.series in problem for problem in verify_store(rotten.store).problems] == [True]
    with pytest.raises(StoreCorrupt, match=rotten.series):
        Store.open(rotten.store).read(ROW)
    assert rotten.run().stored == 1
    assert verify_store(rotten.store).problems == ()
