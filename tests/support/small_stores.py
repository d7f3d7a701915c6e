"""Real stores with made-up volumes, for tests of what reads them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from voco_data.storage.local import LocalStorage
from voco_data.store.chunks.codec import Compression
from voco_data.store.reader import Store
from voco_data.store.record import Record
from voco_data.store.spec import StoreSpec
from voco_data.store.writer import commit_volume, open_for_writing, volume_checksum
from voco_data.volumes.voxels import Voxels

IDENTITY = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))


def make_record(row: int, volume: Voxels, spec: StoreSpec, name: str) -> Record:
    """The record of a made-up series, all of it inside its box, 1 mm voxels."""
    shape = volume.shape
    size_mm = (float(shape[0]), float(shape[1]), float(shape[2]))
    return Record(
        row=row,
        spec_digest=spec.digest,
        input_digest=volume_checksum(volume),
        content_digest=volume_checksum(volume),
        stat_digest="",
        chunk_checksum=volume_checksum(volume),
        patient_id=f"patient-{name}",
        study_uid=f"study-{name}",
        series_uid=f"series-{name}",
        ids="kept",
        layout="made up",
        source=name,
        transfer_syntax="",
        shape=(shape[0], shape[1], shape[2]),
        spacing_mm=(1.0, 1.0, 1.0),
        origin_mm=(0.0, 0.0, 0.0),
        axes=IDENTITY,
        native_spacing_mm=(1.0, 1.0, 1.0),
        permutation=(0, 1, 2),
        flips=(False, False, False),
        resampled=False,
        canonical_shape=(shape[0], shape[1], shape[2]),
        canonical_first_mm=(0.0, 0.0, 0.0),
        hu_p5=-100.0,
        hu_median=30.0,
        hu_p95=150.0,
        organs={},
        box_method="whole",
        box_confidence=1.0,
        box_low_mm=(0.0, 0.0, 0.0),
        box_high_mm=size_mm,
        box_start=(0, 0, 0),
        box_stop=(shape[0], shape[1], shape[2]),
        instance_numbers=tuple(range(1, shape[0] + 1)),
        flags=(),
        versions={},
    )


def make_store(
    root: Path,
    volumes: Voxels,
    *,
    profile: str = "small",
    level_hu: float = 50.0,
    compression: Compression = "none",
    change: Callable[[Record], Record] = lambda record: record,
) -> Store:
    """A store under `root` with the rows of `volumes` (N, Z, Y, X), and their type of voxels.

    `change` makes another record of each.
    """
    grid = volumes.shape[1:]
    spec = StoreSpec(
        profile,
        (grid[0], grid[1], grid[2]),
        window_level_hu=level_hu,
        compression=compression,
        quantisation=volumes.dtype.name,
    )
    names = [f"{index:03d}" for index in range(len(volumes))]
    with open_for_writing(LocalStorage(root), spec) as writer:
        writer.assign_rows(names)
        for name, volume in zip(names, volumes, strict=True):
            record = change(make_record(writer.row_of(name), volume, spec, name))
            commit_volume(writer.storage, record, volume, compression)
            writer.add_record(record)
        writer.compact()
        return Store.open(writer.storage)


def random_volumes(n: int, grid: tuple[int, int, int], seed: int = 0) -> npt.NDArray[np.uint8]:
    """uint8 (n, *grid): a different smooth gradient a volume, with noise."""
    rng = np.random.default_rng(seed)
    z, y, x = np.meshgrid(*(np.linspace(0, 1, length) for length in grid), indexing="ij")
    slopes = rng.uniform(0, 80, (n, 3, 1, 1, 1))
    smooth = slopes[:, 0] * z + slopes[:, 1] * y + slopes[:, 2] * x
    noisy = smooth + rng.uniform(0, 15, (n, *grid))
    return noisy.astype(np.uint8)
