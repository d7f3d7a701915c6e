"""Any Zarr tool opens a store as it is, and finds the same bytes."""

from __future__ import annotations

import json
from pathlib import Path

import dask.array
import numpy as np
import pytest
import tensorstore
import xarray
import zarr

from tests.support.small_stores import make_store, random_volumes
from voco_data.store.chunks.codec import Compression
from voco_data.store.reader import Store

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
