"""The store on disk: what other Zarr readers see, what is refused, what a killed run leaves."""

from __future__ import annotations

import json
import resource
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import xxhash
import zarr

from voco_data.errors import InputError, StoreBusy, StoreCorrupt
from voco_data.storage.local import LocalStorage
from voco_data.store import catalogue
from voco_data.store.index import StoreIndex
from voco_data.store.keys import chunk_key, record_key
from voco_data.store.reader import Store
from voco_data.store.record import Record, read_record
from voco_data.store.spec import StoreSpec
from voco_data.store.writer import StoreWriter, commit_volume, open_for_writing, volume_checksum

SPEC = StoreSpec(profile="tiny", grid=(2, 3, 4))


def volume(seed: int) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, SPEC.grid, np.uint8)


def record(row: int, pixels: npt.NDArray[np.uint8], name: str) -> Record:
    axes = ((0.0, 0.0, 1.0), (0.0, 1.0, 0.0), (1.0, 0.0, 0.0))
    return Record(
        row=row,
        spec_digest=SPEC.digest,
        input_digest=f"{row:032x}",
        content_digest=f"{row:032x}",
        stat_digest=f"{row:032x}",
        chunk_checksum=volume_checksum(pixels),
        patient_id=f"p-{name}",
        study_uid="",
        series_uid=f"s-{name}",
        ids="kept",
        layout="dicom",
        source=name,
        transfer_syntax="1.2.840.10008.1.2.1",
        shape=(20, 30, 40),
        spacing_mm=(5.0, 1.0, 1.0),
        origin_mm=(0.0, 0.0, 0.0),
        axes=axes,
        native_spacing_mm=(5.0, 1.0, 1.0),
        permutation=(0, 1, 2),
        flips=(False, False, False),
        resampled=False,
        canonical_shape=(20, 30, 40),
        canonical_first_mm=(0.0, 0.0, 0.0),
        hu_p5=-100.0,
        hu_median=30.0,
        hu_p95=150.0,
        organs={"liver": ((0.0, 1.0, 2.0), (3.0, 4.0, 5.0))},
        box_method="profile",
        box_confidence=0.9,
        box_low_mm=(0.0, 0.0, 0.0),
        box_high_mm=(1.0, 1.0, 1.0),
        box_start=(0, 0, 0),
        box_stop=(20, 30, 40),
        instance_numbers=(3, 2, 1),
        flags=(),
        versions={"voco": "0"},
    )


def fill(root: Path, names: list[str], *, compact: bool = True) -> Path:
    with open_for_writing(LocalStorage(root), SPEC) as writer:
        writer.assign_rows(sorted(names))
        for name in names:
            commit(writer, name)
        if compact:
            writer.compact()
        return root / SPEC.name


def commit(writer: StoreWriter, name: str) -> None:
    """Commit a volume that is made from its row."""
    row = writer.row_of(name)
    made = record(row, volume(row), name)
    commit_volume(writer.storage, made, volume(row))
    writer.add_record(made)


def test_zarr_python_reads_the_same_bytes(tmp_path: Path) -> None:
    path = fill(tmp_path, ["b", "a"])
    group = zarr.open_group(path, mode="r")
    assert sorted(name for name, _ in group.members()) == ["valid", "volumes"]
    assert group["volumes"].shape == (2, *SPEC.grid)
    assert group["volumes"].chunks == (1, *SPEC.grid)
    assert group["valid"][:].tolist() == [True, True]
    store = Store.open(path)
    for row in (0, 1):
        assert np.array_equal(store.read(row), volume(row))
        assert np.array_equal(group["volumes"][row], volume(row))


def test_rows_follow_the_sorted_keys_and_the_catalogue_the_rows(tmp_path: Path) -> None:
    table = Store.open(fill(tmp_path, ["c", "a", "b"])).catalogue
    assert table["row"].tolist() == [0, 1, 2]
    assert table["patient_id"].tolist() == ["p-a", "p-b", "p-c"]
    assert table["instance_numbers"].tolist()[0].tolist() == [3, 2, 1]


def test_a_chunk_is_the_raw_volume_with_its_checksum(tmp_path: Path) -> None:
    path = fill(tmp_path, ["a"])
    data = (path / chunk_key(0)).read_bytes()
    assert data == volume(0).tobytes()
    assert Store.open(path).catalogue["chunk_checksum"][0] == xxhash.xxh3_128_hexdigest(data)


def test_read_into_a_callers_buffer(tmp_path: Path) -> None:
    store = Store.open(fill(tmp_path, ["a"]))
    out = np.zeros((3, *SPEC.grid), np.uint8)
    store.read(0, out[1])
    assert np.array_equal(out[1], volume(0))
    assert not out[0].any()
    with pytest.raises(ValueError, match="C-contiguous"):
        store.read(0, np.zeros((4, 3, 2), np.uint8).transpose())


@pytest.mark.parametrize("harm", ["flip", "truncate", "remove"])
def test_a_damaged_chunk_is_refused_by_series_name(tmp_path: Path, harm: str) -> None:
    path = fill(tmp_path, ["a"])
    chunk = path / chunk_key(0)
    data = bytearray(chunk.read_bytes())
    if harm == "flip":
        data[5] ^= 1
        chunk.write_bytes(data)
    elif harm == "truncate":
        chunk.write_bytes(data[:-1])
    else:
        chunk.unlink()
    with pytest.raises(StoreCorrupt, match="s-a"):
        Store.open(path).read(0)


def test_a_damaged_record_is_refused(tmp_path: Path) -> None:
    path = fill(tmp_path, ["a"])
    file = path / record_key(0)
    file.write_text(file.read_text().replace("p-a", "p-b"))
    with pytest.raises(StoreCorrupt, match="checksum"):
        read_record(LocalStorage(path), 0)
    file.write_text("{")
    with pytest.raises(StoreCorrupt, match="cannot be read"):
        read_record(LocalStorage(path), 0)


def test_an_edited_spec_or_a_renamed_store_does_not_open(tmp_path: Path) -> None:
    path = fill(tmp_path, ["a"])
    renamed = path.rename(path.with_name("tiny-000000000000.zarr"))
    with pytest.raises(InputError, match="edited or the folder renamed"):
        Store.open(renamed)
    renamed.rename(path)
    metadata = json.loads((path / "zarr.json").read_text())
    metadata["attributes"]["voco"]["spec"]["window_level_hu"] = 60.0
    (path / "zarr.json").write_text(json.dumps(metadata))
    with pytest.raises(InputError, match="edited"):
        Store.open(path)


@pytest.mark.parametrize("content", [None, "", "{}", '{"attributes": {"voco": 3}}'])
def test_what_is_no_store(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "zarr.json").write_text(content)
    with pytest.raises(InputError, match="expected a store"):
        Store.open(tmp_path)


def test_a_killed_run_is_taken_up_where_it_stopped(tmp_path: Path) -> None:
    path = tmp_path / SPEC.name
    with open_for_writing(LocalStorage(tmp_path), SPEC) as writer:
        writer.assign_rows(["a", "b", "c"])
        commit(writer, "b")
    assert len(Store.open(path)) == 0  # readers go by the catalogue
    with open_for_writing(LocalStorage(tmp_path), SPEC) as writer:
        assert list(writer.index.rows()) == [1]  # what was committed is not lost
        writer.assign_rows(["a", "c"])
        assert [writer.row_of(name) for name in "ac"] == [0, 2]  # those of an undisturbed run
        commit(writer, "a")
        commit(writer, "c")
        writer.compact()
    assert [Store.open(path).read(row).tolist() for row in range(3)] == [
        volume(row).tolist() for row in range(3)
    ]


def test_a_changed_series_keeps_the_row_that_a_killed_run_planned(tmp_path: Path) -> None:
    """Although a later row was committed, and the catalogue still lists the old one."""
    names = {record(0, volume(0), name).key: name for name in "abc"}
    changed, later = sorted(names)[:2]
    (old,) = set(names) - {changed, later}

    def commit_at(writer: StoreWriter, row: int, key: str) -> None:
        made = record(row, volume(row), names[key])
        commit_volume(writer.storage, made, volume(row))
        writer.add_record(made)

    with open_for_writing(LocalStorage(tmp_path), SPEC) as writer:
        writer.assign_rows([changed, old])
        commit_at(writer, 0, changed)
        commit_at(writer, 1, old)
        writer.compact()
    with suppress(KeyboardInterrupt), open_for_writing(LocalStorage(tmp_path), SPEC) as writer:
        writer.assign_rows([changed, later])
        assert (writer.row_of(changed), writer.row_of(later)) == (2, 3)
        commit_at(writer, 3, later)
        raise KeyboardInterrupt
    with open_for_writing(LocalStorage(tmp_path), SPEC) as writer:
        assert list(writer.index.rows()) == [0, 1, 3]
        writer.assign_rows([changed])
        assert writer.row_of(changed) == 2


def test_a_refused_series_leaves_a_hole(tmp_path: Path) -> None:
    with open_for_writing(LocalStorage(tmp_path), SPEC) as writer:
        writer.assign_rows(["a", "b", "c"])
        commit(writer, "a")
        commit(writer, "c")
        writer.compact()
    path = tmp_path / SPEC.name
    group = zarr.open_group(path, mode="r")
    assert group["valid"][:].tolist() == [True, False, True]
    assert Store.open(path).catalogue["row"].tolist() == [0, 2]
    with pytest.raises(KeyError):
        Store.open(path).read(1)


def test_a_changed_series_gets_a_new_row_and_leaves_its_old_one(tmp_path: Path) -> None:
    path = fill(tmp_path, ["a", "b"])
    with open_for_writing(LocalStorage(tmp_path), SPEC) as writer:
        writer.assign_rows(["a"])
        assert writer.row_of("a") == 2
        changed = replace(record(2, volume(9), "a"), input_digest="f" * 32)
        commit_volume(writer.storage, changed, volume(9))
        assert np.array_equal(Store.open(path).read(0), volume(0))  # the old one still reads
        writer.add_record(changed)
        writer.compact()
    store = Store.open(path)
    assert store.catalogue["row"].tolist() == [1, 2]
    assert np.array_equal(store.read(2), volume(9))
    assert not (path / chunk_key(0)).exists()
    assert read_record(LocalStorage(path), 0) is None


def test_a_line_that_was_written_over_by_an_older_one_is_no_hit() -> None:
    """A late worker put what a series was before into the row of another one."""
    with closing(StoreIndex()) as index:
        for row, name in ((1, "a"), (2, "b")):
            index.add_line(catalogue.line_from_record(record(row, volume(row), name)))
        assert index.add_line(catalogue.line_from_record(record(1, volume(1), "b"))) == [1]
        assert list(index.rows()) == [2]


def test_a_table_is_not_damaged_because_descriptors_are_scarce(tmp_path: Path) -> None:
    path = fill(tmp_path, ["a"])
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            next(catalogue.iter_batches(LocalStorage(path), ["row"]))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_what_a_series_was_before_does_not_come_back(tmp_path: Path) -> None:
    """A run was killed after the catalogue, before it removed the old row; then tables are lost."""
    path = fill(tmp_path, ["a", "b"])
    old = {key: (path / key).read_bytes() for key in (chunk_key(0), record_key(0))}
    with open_for_writing(LocalStorage(tmp_path), SPEC) as writer:
        writer.assign_rows(["a"])
        commit(writer, "a")
        writer.compact()
    for key, data in old.items():
        LocalStorage(path).write(key, data)
    for name in ("catalogue", "rows"):
        (path / f"volumes/{name}.parquet").write_bytes(b"lost")
    with open_for_writing(LocalStorage(tmp_path), SPEC) as writer:
        assert list(writer.index.rows()) == [1, 2]
        writer.assign_rows(["a", "b"])
        writer.compact()
    assert Store.open(path).rows.tolist() == [1, 2]
    assert not (path / chunk_key(0)).exists()
    assert not (path / record_key(0)).exists()


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    with (
        open_for_writing(LocalStorage(tmp_path), SPEC),
        pytest.raises(StoreBusy, match="another run"),
        open_for_writing(LocalStorage(tmp_path), SPEC, wait_seconds=0.3),
    ):
        pass
    with open_for_writing(LocalStorage(tmp_path), SPEC):  # and the lock is free again
        pass
