"""Any Zarr tool opens a store as it is, and finds the same bytes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import dask.array
import numpy as np
import pytest
import tensorstore
import xarray
import zarr

from tests.support.project import PROJECT
from tests.support.small_stores import make_store, random_volumes
from voco_data.storage.local import LocalStorage
from voco_data.store.chunks.codec import Compression
from voco_data.store.reader import Store
from voco_data.store.writer import open_for_writing

VOLUMES = random_volumes(3, (4, 12, 10))
DIMENSIONS = ("series", "z", "y", "x")


@pytest.fixture(params=["none", "lz4"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    compression: Compression = request.param
    return make_store(tmp_path, VOLUMES, compression=compression)


def test_the_codecs_are_those_of_the_spec(store: Store) -> None:
    codecs = json.loads((store.path / "volumes" / "zarr.json").read_text())["codecs"]
    names = [codec["name"] for codec in codecs]
    assert names == (["bytes"] if store.spec.compression == "none" else ["bytes", "blosc"])


def test_zarr_python(store: Store) -> None:
    group = zarr.open_group(store.path, mode="r")
    assert np.array_equal(group["volumes"][:], VOLUMES)
    assert group["valid"][:].all()


def test_xarray_names_the_dimensions(store: Store) -> None:
    for opened in (
        xarray.open_zarr(store.path, consolidated=False),
        xarray.open_dataset(store.path, engine="zarr", consolidated=False),
    ):
        with opened:
            assert opened["volumes"].dims == DIMENSIONS
            assert opened["volumes"].dtype == np.uint8
            assert opened["valid"].dims == ("series",)
            assert np.array_equal(opened["volumes"].values, VOLUMES)
            assert opened["valid"].values.all()


def test_dask(store: Store) -> None:
    array = dask.array.from_zarr(str(store.path), component="volumes")
    assert array.chunksize == (1, *VOLUMES.shape[1:])
    assert np.array_equal(array.compute(scheduler="threads"), VOLUMES)


def test_tensorstore(store: Store) -> None:
    where = {"driver": "file", "path": str(store.path / "volumes")}
    array = tensorstore.open({"driver": "zarr3", "kvstore": where}).result()
    assert array.domain.labels == DIMENSIONS
    assert np.array_equal(array.read().result(), VOLUMES)


@pytest.fixture
def holey(store: Store) -> Path:
    """A store whose row 1 was removed by a run."""
    with open_for_writing(LocalStorage(store.path.parent), store.spec) as writer:
        writer.remove_rows([1], ())
        writer.compact()
    return store.path


def documented_way(path: Path) -> dict[int, np.ndarray[Any, Any]]:
    """Run the example of docs/stores.md."""
    text = (PROJECT / "docs/stores.md").read_text().split("## Other Zarr tools")[1]
    names: dict[str, Any] = {"store": str(path)}
    exec(text.split("```python\n")[1].split("```")[0], names)
    found: dict[int, np.ndarray[Any, Any]] = names["volumes"]
    return found


def test_a_hole_reads_as_the_lowest_value_and_valid_tells(holey: Path) -> None:
    group = zarr.open_group(holey, mode="r")
    assert not np.any(group["volumes"][1])
    assert group["valid"][:].tolist() == [True, False, True]


def test_the_documented_way_reads_no_hole(holey: Path) -> None:
    volumes = documented_way(holey)
    assert sorted(volumes) == [0, 2]
    assert all(np.array_equal(volume, VOLUMES[row]) for row, volume in volumes.items())


def test_the_documented_way_finds_a_lost_chunk(holey: Path) -> None:
    (holey / "volumes/c/2/0/0/0").unlink()
    assert zarr.open_group(holey, mode="r")["valid"][2]
    with pytest.raises(ValueError, match="row 2 is damaged"):
        documented_way(holey)


def test_tensorstore_can_refuse_a_hole(holey: Path) -> None:
    where = {"driver": "file", "path": str(holey / "volumes")}
    spec = {"driver": "zarr3", "kvstore": where, "fill_missing_data_reads": False}
    array = tensorstore.open(spec).result()
    assert np.array_equal(array[0].read().result(), VOLUMES[0])
    with pytest.raises(ValueError, match="missing"):
        array[1].read().result()


def test_zarr_python_refuses_a_hole_where_it_can(holey: Path) -> None:
    """zarr-python 3.1.6 ignores the setting, as docs/stores.md says; newer ones raise."""
    can = "read_missing_chunks" in zarr.config.get("array")
    with zarr.config.set({"array.read_missing_chunks": False}):
        array = zarr.open_group(holey, mode="r")["volumes"]
        if can:
            with pytest.raises(Exception, match=r"(?i)chunk"):
                array[1]
        else:
            assert not np.any(array[1])
