"""Pinned rows: what a store holds later does not change what is read by them."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from tests.support.small_stores import make_store, random_volumes
from voco_data.errors import InputError
from voco_data.selection.pinned_rows import PinnedRows, open_pinned
from voco_data.store.reader import Store

GRID = (2, 8, 8)


def test_a_store_that_grew_is_read_as_it_was(tmp_path: Path) -> None:
    volumes = random_volumes(5, GRID)
    grown = make_store(tmp_path, volumes)
    before = grown.with_rows(grown.rows.tolist()[:3])
    PinnedRows.of_stores([before]).write(tmp_path / "rows.json")
    pinned = open_pinned(grown.path, tmp_path / "rows.json")
    assert pinned.rows.tolist() == [0, 1, 2]
    assert pinned.catalogue["series_uid"].tolist() == ["series-000", "series-001", "series-002"]
    assert np.array_equal(pinned.read(2), volumes[2])
    with pytest.raises(KeyError):
        pinned.read(3)
    again: Store = pickle.loads(pickle.dumps(pinned))
    assert again.rows.tolist() == [0, 1, 2]


def test_the_digest_is_of_the_series_and_not_of_their_rows(tmp_path: Path) -> None:
    volumes = random_volumes(3, GRID)
    one = PinnedRows.of_stores([make_store(tmp_path / "a", volumes)])
    other = PinnedRows.of_stores([make_store(tmp_path / "b", volumes)])
    fewer = PinnedRows.of_stores([make_store(tmp_path / "c", volumes[:2])])
    (name,) = one.stores
    rows = one.stores[name]
    moved = PinnedRows({name: dict(zip((7, 8, 9), rows.values(), strict=True))})
    assert one.digest == other.digest == moved.digest
    assert one.digest != fewer.digest


def test_a_series_that_is_gone_or_changed_is_counted(tmp_path: Path) -> None:
    volumes = random_volumes(3, GRID)
    pinned = PinnedRows.of_stores([make_store(tmp_path / "a", volumes)])
    volumes[1] += 1
    changed = make_store(tmp_path / "b", volumes)
    with pytest.raises(InputError, match="1 of the 3 series that were pinned are gone or have"):
        pinned.restrict(changed)
    with pytest.raises(InputError, match="2 of the 3 series"):
        pinned.restrict(make_store(tmp_path / "c", volumes[:2]))
    with pytest.raises(InputError, match="expected one of the pinned stores"):
        pinned.restrict(make_store(tmp_path / "d", volumes, profile="other"))


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": "voco rows", "version": 2}'])
def test_a_damaged_file_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "rows.json").write_text(text)
    with pytest.raises(InputError, match="expected the pinned rows of a retraining"):
        PinnedRows.read(tmp_path / "rows.json")
