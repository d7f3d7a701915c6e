"""Stores of earlier releases are read as they were written; `written_roots.py` made them."""

from __future__ import annotations

import hashlib
import json
import zipfile
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import pytest

from flows.command import main
from tests.golden.written_roots import HERE, read_truth
from voco_data.deidentification import pseudonyms
from voco_data.maintenance.garbage import collect_garbage
from voco_data.maintenance.listing import list_stores
from voco_data.maintenance.verification import verify_store
from voco_data.qc import preview, render_report
from voco_data.storage import open_storage
from voco_data.store import read_record
from voco_data.store.reader import Store
from voco_data.store.spec import read_spec
from voco_data.store.writer import open_for_writing

RELEASES = sorted(HERE.glob("written-*.zip"))
MAX_BYTES = 300_000
ROOTS = ("pseudonyms", "kept")
LAYOUTS = {"ratic", "flare", "nnunet", "decathlon", "totalsegmentator", "dicom", "nifti"}

Truth = dict[str, dict[str, dict[str, Any]]]


@pytest.fixture(params=RELEASES, ids=lambda path: path.stem)
def written(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    with zipfile.ZipFile(request.param) as packed:
        packed.extractall(tmp_path)
    return tmp_path


@pytest.fixture
def truth(written: Path) -> dict[str, Truth]:
    """What `written_roots.py` wrote down when it made the roots."""
    read: dict[str, Truth] = json.loads((written / "truth.json").read_text())
    return read


def stores(written: Path, truth: dict[str, Truth]) -> list[tuple[Path, dict[str, dict[str, Any]]]]:
    return [(written / r / name, truth[r][name]) for r in ROOTS for name in truth[r]]


def test_the_releases_are_here_and_small() -> None:
    assert RELEASES
    assert all(path.stat().st_size < MAX_BYTES for path in RELEASES)


def test_every_layout_and_codec_is_there(truth: dict[str, Truth]) -> None:
    for series in truth["pseudonyms"].values():
        assert {one["layout"] for one in series.values()} == LAYOUTS
        assert {one["ids"] for one in series.values()} == {"pseudonym", "kept"}
    assert sorted(name.partition("-")[0] for name in truth["pseudonyms"]) == ["lz4", "raw"]


def test_stores_open_with_the_same_voxels_and_records(
    written: Path, truth: dict[str, Truth]
) -> None:
    for path, series in stores(written, truth):
        store = Store.open(path)
        assert set(store.catalogue["series_uid"]) == set(series)
        for _, line in store.catalogue.iterrows():
            expected = series[line["series_uid"]]
            chunk = (path / f"volumes/c/{line['row']}/0/0/0").read_bytes()
            assert hashlib.sha256(chunk).hexdigest() == expected["chunk_sha256"]
            voxels = numcodecs.Blosc().decode(chunk) if path.name.startswith("lz4") else chunk
            volume = np.frombuffer(voxels, np.uint8).reshape(store.grid)
            assert np.array_equal(store.read(int(line["row"])), volume)
            record = read_record(open_storage(path), int(line["row"]))
            found = json.loads(json.loads(record.to_json())["record"])  # type: ignore[union-attr]
            for name in set(expected) - {"chunk_sha256"}:
                assert found[name] == expected[name], name


def test_organ_maps_are_read(written: Path, truth: dict[str, Truth]) -> None:
    for path, series in stores(written, truth):
        store = Store.open(path)
        rows = store.rows.tolist()
        maps = store.read_organ_maps(rows, ["liver"])
        drawn = {one["row"] for one in series.values() if "liver" in one.get("organ_maps", {})}
        known = {
            row for row, shown in zip(rows, maps.is_known[:, 0].tolist(), strict=True) if shown
        }
        assert known == drawn
        assert drawn or path.parent.name == "kept"


def test_verify_list_and_gc_accept_them(written: Path, truth: dict[str, Truth]) -> None:
    for path, series in stores(written, truth):
        assert main(["store", "info", str(path), "--json"]) == 0
        result = verify_store(path)
        assert (result.series, result.problems) == (len(series), ())
    for root in ROOTS:
        listed = list_stores(written / root)
        assert listed["problems"] == []
        before = read_truth(written / root)
        collect_garbage(written / root, yes=True)
        assert read_truth(written / root) == before == truth[root]


def test_a_writer_leaves_them_as_they_are(written: Path, truth: dict[str, Truth]) -> None:
    for path, series in stores(written, truth):
        root = open_storage(path.parent)
        with open_for_writing(root, read_spec(open_storage(path)), deep=True) as writer:
            assert writer.index.n_lines == len(series)
            writer.compact()
    for root_name in ROOTS:
        assert read_truth(written / root_name) == truth[root_name]


def test_key_and_map_of_the_pseudonyms_fit(written: Path, truth: dict[str, Truth]) -> None:
    root = open_storage(written / "pseudonyms")
    key = pseudonyms.load(root)
    assert key is not None
    pairs = {(kind, original): short for kind, short, original in pseudonyms.read_map(root)}
    assert all(key.code(kind, original) == short for (kind, original), short in pairs.items())
    patients = {
        one["patient_id"]
        for series in truth["pseudonyms"].values()
        for one in series.values()
        if one["ids"] == "pseudonym"
    }
    assert patients <= {short for (kind, _), short in pairs.items() if kind == "patient"}
    assert pairs["patient", "someone"] in patients


def test_ledgers_and_previews_make_a_report(written: Path) -> None:
    for name in ROOTS:
        root = open_storage(written / name)
        previews = [key for key, _ in root.list_objects("previews")]
        assert previews
        assert all(preview.read(root, key) is not None for key in previews)
        for ledger in (written / name).glob("runs/*/ledger.parquet"):
            assert "</html>" in render_report("an earlier run", ledger, root)
