"""Organ maps in records: their coding, what is refused, and how a store reads them."""

from __future__ import annotations

import base64
import json
import tracemalloc
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import xxhash
from hypothesis import given, settings, strategies as st

from flows.command import main
from tests.support.small_stores import make_store, random_volumes
from voco_data.errors import StoreCorrupt
from voco_data.maintenance.verification import verify_store
from voco_data.store.keys import record_key
from voco_data.store.organ_maps import Silhouette, decode_silhouette, encode_silhouette
from voco_data.store.reader import Store
from voco_data.store.record import Record
from voco_data.volumes.geometry import Index

GRID = (4, 6, 8)
ORGANS = ("liver", "spleen", "bowel")


def drawn(seed: int, grid: Index = GRID) -> Silhouette:
    rng = np.random.default_rng(seed)
    depth, height, width = grid
    return Silhouette(rng.random((depth, width)) < 0.4, rng.random((depth, height)) < 0.4)


EMPTY = Silhouette(np.zeros((4, 8), bool), np.zeros((4, 6), bool))


def with_maps(record: Record) -> Record:
    """Row 0: liver, and no spleen. Row 1: a mask that tells nothing. Row 2: no mask."""
    flags = ("mask", "lost_files") if record.row < 2 else ("mask_misplaced",)
    maps = {"liver": encode_silhouette(drawn(1)), "spleen": encode_silhouette(EMPTY)}
    return replace(record, flags=flags, organ_maps=maps if record.row == 0 else {})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return make_store(tmp_path, random_volumes(3, GRID), change=with_maps)


@settings(max_examples=60, deadline=None)
@given(grid=st.tuples(*[st.integers(1, 40)] * 3), seed=st.integers(0, 99))
def test_what_is_encoded_is_decoded(grid: Index, seed: int) -> None:
    silhouette = drawn(seed, grid)
    decoded = decode_silhouette(encode_silhouette(silhouette), grid)
    for ours, theirs in zip(decoded, silhouette, strict=True):
        assert ours.dtype == bool
        np.testing.assert_array_equal(ours, theirs)


def test_the_coding_is_that_of_the_document() -> None:
    """Base64 of zlib of bits, the highest first: coronal, then sagittal, each row by row."""
    silhouette = drawn(3)
    data = zlib.decompress(base64.b64decode(encode_silhouette(silhouette)))
    bits = [byte >> (7 - k) & 1 for byte in data for k in range(8)]
    assert bits == [*silhouette.coronal.ravel(), *silhouette.sagittal.ravel()]
    depth, height, width = GRID
    assert len(data) == depth * (width + height) // 8


def packed(data: bytes) -> str:
    return base64.b64encode(zlib.compress(data)).decode()


DAMAGED: dict[str, Callable[[str], object]] = {
    "no text": lambda text: 7,
    "not base64": lambda text: text[:6] + "\n" + text[7:],
    "not ascii": lambda text: "ä" + text[1:],
    "cut": lambda text: base64.b64encode(base64.b64decode(text)[:-3]).decode(),
    "bit": lambda text: base64.b64encode(
        bytes(b ^ (i == 5) for i, b in enumerate(base64.b64decode(text)))
    ).decode(),
    "more": lambda text: base64.b64encode(base64.b64decode(text) + b"0").decode(),
    "short": lambda text: packed(bytes(6)),
    "long": lambda text: packed(bytes(8)),
    "empty": lambda text: "",
    "huge": lambda text: packed(bytes(10**8)),
    "long text": lambda text: "A" * 4000,
}


@pytest.mark.parametrize("harm", DAMAGED)
def test_a_damaged_map_is_one_line_and_is_found_by_verify(
    tmp_path: Path, harm: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The record itself is whole: only what it says is wrong."""

    def damage(record: Record) -> Record:
        maps = {"liver": encode_silhouette(drawn(1)), "spleen": encode_silhouette(EMPTY)}
        maps["liver"] = DAMAGED[harm](maps["liver"])  # type: ignore[assignment]
        return replace(record, flags=("mask",), organ_maps=maps)

    store = make_store(tmp_path, random_volumes(1, GRID), change=damage)
    with pytest.raises(StoreCorrupt, match=r"series series-000 .*the map of liver") as caught:
        store.read_organ_maps([0], ORGANS)
    assert "rerun voco preprocess" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert store.read_organ_maps([0], ["spleen"]).is_known.all()
    (problem,) = verify_store(store.path).problems
    assert "the map of liver" in problem
    assert main(["store", "verify", str(store.path)]) == 1
    assert "the map of liver" in capsys.readouterr().out


@pytest.mark.parametrize("grid", [GRID, (96, 256, 256)])
def test_a_forged_size_takes_no_memory(grid: Index) -> None:
    """Neither a long text, which is not even decoded, nor a short one of many bytes."""
    long, short = packed(bytes(2 * 10**8)), packed(bytes(5 * 10**6))
    assert (len(long) > 200_000, len(short) < 8_000) == (True, True)
    tracemalloc.start()
    for forged in (long, short):
        with pytest.raises(ValueError, match="bytes"):
            decode_silhouette(forged, grid)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 200_000


def test_random_bits_of_the_largest_grid_fit_the_bound() -> None:
    """What zlib cannot compress is not taken for a forgery."""
    for grid in ((96, 256, 256), (400, 1000, 1000), (1, 1, 1)):
        silhouette = drawn(0, grid)
        noise = Silhouette(*(np.random.default_rng(5).random(p.shape) < 0.5 for p in silhouette))
        decoded = decode_silhouette(encode_silhouette(noise), grid)
        np.testing.assert_array_equal(decoded.coronal, noise.coronal)


def test_known_absent_and_unknown_organs(store: Store) -> None:
    maps = store.read_organ_maps([2, 0, 1, 0], ORGANS)
    assert maps.organs == ORGANS
    assert maps.coronal.shape == (4, 3, 4, 8)
    assert maps.sagittal.shape == (4, 3, 4, 6)
    known = [True, True, False]  # liver, no spleen, and nothing about the bowel
    nothing = [False, False, False]
    assert maps.is_known.tolist() == [nothing, known, nothing, known]
    for index in (1, 3):
        np.testing.assert_array_equal(maps.coronal[index, 0], drawn(1).coronal)
        np.testing.assert_array_equal(maps.sagittal[index, 0], drawn(1).sagittal)
    maps.coronal[[1, 3], 0] = maps.sagittal[[1, 3], 0] = False
    assert not maps.coronal.any()
    assert not maps.sagittal.any()


def test_the_order_of_the_organs_is_the_callers(store: Store) -> None:
    maps = store.read_organ_maps([0], ["bowel", "liver"])
    assert maps.is_known.tolist() == [[False, True]]
    np.testing.assert_array_equal(maps.coronal[0, 1], drawn(1).coronal)
    assert store.read_organ_maps([], ORGANS).coronal.shape == (0, 3, 4, 8)


def test_only_records_of_series_with_a_mask_are_opened(store: Store) -> None:
    (store.path / record_key(2)).unlink()
    assert not store.read_organ_maps([2], ORGANS).is_known.any()
    (store.path / record_key(0)).unlink()
    with pytest.raises(StoreCorrupt, match=r"series series-000 .*record is missing"):
        store.read_organ_maps([2, 0], ORGANS)
    with pytest.raises(KeyError):
        store.read_organ_maps([3], ORGANS)


def test_a_damaged_record_names_its_series(store: Store) -> None:
    path = store.path / record_key(0)
    data = bytearray(path.read_bytes())
    data[data.index(b"organ_maps") + 30] ^= 1
    path.write_bytes(data)
    with pytest.raises(StoreCorrupt, match=r"series series-000 .*checksum"):
        store.read_organ_maps([0], ORGANS)
    # The chunk was touched, so that the next run checks the row.
    (problem,) = verify_store(store.path).problems
    assert "checksum" in problem


def test_a_record_of_an_older_version_reads(store: Store) -> None:
    """As it was before the field: without maps, a record has the same text as then."""
    for row in (0, 2):
        path = store.path / record_key(row)
        body = json.loads(json.loads(path.read_text())["record"])
        assert ("organ_maps" in body) == (row == 0)
        body.pop("organ_maps", None)
        text = json.dumps(body, sort_keys=True, separators=(",", ":"))
        outer = {"xxh3_128": xxhash.xxh3_128_hexdigest(text.encode()), "record": text}
        older = json.dumps(outer) + "\n"
        record = Record.from_json(older, "a record")
        assert record.organ_maps == {}
        assert record.to_json() == older
        path.write_text(older)
    assert not store.read_organ_maps([0, 1, 2], ORGANS).is_known.any()
    assert verify_store(store.path).problems == ()


@pytest.mark.parametrize("change", ["newer", "lacking"])
def test_other_fields_are_still_required_and_known(store: Store, change: str) -> None:
    body = json.loads(json.loads((store.path / record_key(0)).read_text())["record"])
    if change == "newer":
        body["something_new"] = 1
    else:
        del body["organs"]
    text = json.dumps(body, sort_keys=True, separators=(",", ":"))
    outer = {"xxh3_128": xxhash.xxh3_128_hexdigest(text.encode()), "record": text}
    with pytest.raises(StoreCorrupt, match="something_new" if change == "newer" else "organs"):
        Record.from_json(json.dumps(outer), "a record")
