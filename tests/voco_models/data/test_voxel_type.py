"""The type of a stored voxel is one fact of the spec: the whole chain takes it from there."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
import zarr

from tests.support.small_stores import make_store, random_volumes
from voco_data.errors import InputError
from voco_data.preprocessing.resampling import resample
from voco_data.store import spec as spec_module
from voco_data.store.chunks.codec import Compression
from voco_data.store.keys import chunk_key
from voco_data.store.reader import Store
from voco_data.store.spec import FINETUNE
from voco_models.data.items import ReducedVolumes, items_of
from voco_models.data.loader import Loader
from voco_models.data.resident import Residence
from voco_models.data.slice_loader import SliceLoader
from voco_models.data.volume_view import VolumeView
from voco_models.data.window import centre, input_window, normalise

CPU = torch.device("cpu")
GRID = (4, 6, 8)
TYPES = ("uint8", "int16")


@pytest.fixture(params=TYPES)
def volumes(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> npt.NDArray[np.integer]:
    """Five volumes over the whole range of a type that the spec allows here."""
    monkeypatch.setitem(spec_module._CHOICES, "quantisation", TYPES)
    limits = np.iinfo(request.param)
    rng = np.random.default_rng(0)
    return rng.integers(limits.min, limits.max, (5, *GRID), request.param, endpoint=True)


def read_all_ways(store: Store) -> list[npt.NDArray[np.integer]]:
    """Volume 1 by each way of reading."""
    floats = np.empty(GRID, np.float32)
    store.read_floats(1, floats)
    return [
        store.read(1),
        store.read_slices(1, range(GRID[0])),
        np.stack([store.view_slice(1, index) for index in range(GRID[0])]),
        floats,
    ]


@pytest.mark.parametrize("compression", ["none", "lz4"])
def test_readers_give_the_type_of_the_spec(
    tmp_path: Path, volumes: npt.NDArray[np.integer], compression: Compression
) -> None:
    written = make_store(tmp_path, volumes, compression=compression)
    store = Store.open(written.path)
    assert store.dtype == store.spec.dtype == volumes.dtype
    for _ in range(3):  # the first read of a file, the second, and through its mapping
        for found in read_all_ways(store):
            assert found.dtype in (volumes.dtype, np.float32)
            assert np.array_equal(found, volumes[1])
    array = zarr.open_group(store.path, mode="r")["volumes"]
    assert array.dtype == volumes.dtype
    assert array.fill_value == store.spec.window.lowest
    assert np.array_equal(array[:], volumes)
    if compression == "none":
        assert (store.path / chunk_key(0)).stat().st_size == store.spec.volume_bytes


@pytest.mark.parametrize("residence", ["none", "ram", "device"])
def test_batches_have_the_type_of_the_spec(
    tmp_path: Path, volumes: npt.NDArray[np.integer], residence: Residence
) -> None:
    store = make_store(tmp_path, volumes)
    loader = Loader(items_of([store]), batch_size=2, seed=0, device=CPU, resident=residence)
    for batch in itertools.islice(loader.batches_from(0), 4):
        assert batch.volumes.numpy().dtype == store.dtype
        assert np.array_equal(batch.volumes.numpy(), volumes[batch.items.numpy()])
    slices = SliceLoader([store], batch_size=5, seed=0, device=CPU)
    for plane in itertools.islice(slices.batches_from(0), 4):
        assert plane.slices.numpy().dtype == store.dtype
        assert np.array_equal(
            plane.slices.numpy(), volumes[plane.items.numpy(), plane.indices.numpy()]
        )


def test_the_window_becomes_minus_one_to_one(
    tmp_path: Path, volumes: npt.NDArray[np.integer]
) -> None:
    store = make_store(tmp_path, volumes)
    window = input_window(None, store.spec)
    lowest, highest = store.spec.window.lowest, store.spec.window.highest
    ends = torch.from_numpy(np.array([lowest, highest], store.dtype))
    torch.testing.assert_close(normalise(ends, window), torch.tensor([-1.0, 1.0]))
    stored = torch.from_numpy(volumes)
    share = (volumes.astype(np.float64) - lowest) / (highest - lowest)
    expected = torch.from_numpy(2 * share - 1).float()
    torch.testing.assert_close(normalise(stored, window), expected)
    torch.testing.assert_close(centre(window.to_unit(stored)), expected)
    hu = store.spec.window.to_hu(volumes)
    assert np.abs(hu - (share * 400 - 150)).max() <= 0.5


VIEW = VolumeView(slices=2, size_px=3, reduce="average")


def test_smaller_volumes_keep_the_type(tmp_path: Path, volumes: npt.NDArray[np.integer]) -> None:
    store = make_store(tmp_path, volumes)
    reduced = ReducedVolumes(store, VIEW)
    assert reduced.read(0).dtype == reduced.dtype == store.dtype
    view = VolumeView(slices=2, size_px=4, reduce="subsample")
    assert view.make_middle_view(torch.from_numpy(volumes)).numpy().dtype == store.dtype


def test_the_resampler_fills_the_range_of_the_type(volumes: npt.NDArray[np.integer]) -> None:
    spec = replace(FINETUNE, grid=(2, 3, 4), quantisation=volumes.dtype.name)
    hu = np.linspace(-300, 400, 4 * 6 * 8).astype(np.int16).reshape(4, 6, 8)
    found = resample(hu, (0, 0, 0), hu.shape, spec.grid, spec.window, floor_hu=-1024)
    assert found.dtype == spec.dtype
    assert (found.min(), found.max()) == (spec.window.lowest, spec.window.highest)
    mean = hu.astype(np.float64).reshape(2, 2, 3, 2, 4, 2).mean(axis=(1, 3, 5))
    grey = 400 / (spec.window.highest - spec.window.lowest)
    tolerance = 0.5 + 0.51 * grey  # of whole HU, and of the stored value
    assert np.abs(spec.window.to_hu(found) - mean.clip(-150, 250)).max() <= tolerance


def test_stores_of_two_types_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(spec_module._CHOICES, "quantisation", TYPES)
    small = random_volumes(2, GRID)
    stores = [make_store(tmp_path / "a", small), make_store(tmp_path / "b", small.astype(np.int16))]
    with pytest.raises(InputError, match="one voxel type, got"):
        Loader(items_of(stores), batch_size=1, seed=0, device=CPU)
    with pytest.raises(InputError, match="one voxel type, got"):
        SliceLoader(stores, batch_size=1, seed=0, device=CPU)


def test_batches_are_of_the_stores_type_or_float32(tmp_path: Path) -> None:
    items = items_of([make_store(tmp_path, random_volumes(2, GRID))])
    with pytest.raises(ValueError, match="dtype must be uint8 or float32"):
        Loader(items, batch_size=1, seed=0, device=CPU, dtype=torch.float64)
