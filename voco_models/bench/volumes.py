"""The synthetic volumes of the benchmark, in the file formats of all candidates."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from voco_data.storage import LocalStorage
from voco_data.store import (
    Compression,
    Record,
    Store,
    StoreSpec,
    chunk_key,
    commit_volume,
    open_for_writing,
    volume_checksum,
)
from voco_data.volumes import Voxel, Voxels

GRID = (32, 192, 192)
DTYPE = StoreSpec("bench", GRID).dtype
"""NumPy's type of a voxel, in every format."""
VOLUMES = 128
LARGE_SERIES = 5_000
"""Series in the large store."""
INSTANCE_NUMBERS = 300
"""Instance numbers of a series in the catalogue of the large store."""

RAW, FOLDER_NPY, SHAPE = "volumes.u8", "npy", "about.json"


@dataclass(frozen=True, slots=True)
class BenchVolumes:
    """Paths of the same volumes in several formats."""

    folder: Path
    store: Path
    store_lz4: Path
    large: Path
    lz4_ratio: float
    """Bytes of the volumes over the bytes of their LZ4 chunks."""


def open_memmap(folder: Path) -> np.memmap[tuple[int, ...], np.dtype[Voxel]]:
    """All volumes in one raw file, `DTYPE` (N, Z, Y, X)."""
    shape = json.loads((folder / SHAPE).read_text())
    return np.memmap(folder / RAW, DTYPE, "r", shape=(shape["volumes"], *shape["grid"]))


def list_npy_files(folder: Path) -> list[str]:
    """Paths of the same volumes, one .npy file each."""
    return sorted(str(path) for path in (folder / FOLDER_NPY).iterdir())


def make_volumes(folder: Path, volumes: int = VOLUMES, large: int = LARGE_SERIES) -> BenchVolumes:
    """Write `volumes` volumes in all formats, and a store of `large` series, to `folder`."""
    (folder / FOLDER_NPY).mkdir()
    (folder / SHAPE).write_text(json.dumps({"volumes": volumes, "grid": GRID}))
    with (folder / RAW).open("wb") as file:
        for index in range(volumes):
            volume = make_volume(index)
            file.write(volume.data)
            np.save(folder / FOLDER_NPY / f"{index:04d}.npy", volume)
    pixels = open_memmap(folder)
    raw = make_store(folder, pixels, "none")
    lz4 = make_store(folder, pixels, "lz4")
    chunk = sum((lz4 / chunk_key(row)).stat().st_size for row in range(volumes))
    return BenchVolumes(
        folder=folder,
        store=raw,
        store_lz4=lz4,
        large=_make_large_store(folder, raw, pixels[0], volumes, large),
        lz4_ratio=pixels.nbytes / chunk,
    )


def make_volume(index: int) -> Voxels:
    """A bright ellipse with soft shapes and noise in black air, of the shape `GRID`."""
    rng = np.random.default_rng(index)
    z, y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in GRID), indexing="ij", sparse=True)
    body = x**2 + (1.3 * y) ** 2 < rng.uniform(0.7, 0.9)
    soft = 120 + 30 * np.sin(3 * x + index) + 20 * np.cos(4 * y * z + index)
    noisy = soft + rng.normal(0, 6, GRID)
    volume: Voxels = np.where(body, noisy.clip(0, 255), 0).astype(DTYPE)
    return volume


def make_store(folder: Path, volumes: Voxels, compression: Compression) -> Path:
    """A store of `volumes` (N, *GRID) in `folder`. Returns its path."""
    spec = StoreSpec("bench", GRID, compression=compression)
    names = [f"{index:05d}" for index in range(len(volumes))]
    with open_for_writing(LocalStorage(folder), spec) as writer:
        writer.assign_rows(names)
        for name, volume in zip(names, volumes, strict=True):
            record = _make_record(writer.row_of(name), name, volume, spec)
            commit_volume(writer.storage, record, volume, compression)
            writer.add_record(record)
        writer.compact()
    return folder / spec.name


def _make_large_store(folder: Path, small: Path, volume: Voxels, volumes: int, size: int) -> Path:
    """A store of many series. Its chunks are hard links to those of the store `small`."""
    spec = StoreSpec("large", GRID)
    checksums = Store.open(small).catalogue["chunk_checksum"].tolist()
    names = [f"{index:05d}" for index in range(size)]
    with open_for_writing(LocalStorage(folder), spec) as writer:
        writer.assign_rows(names)
        first = _make_record(0, "", volume, spec)
        for index, name in enumerate(names):
            record = replace(
                first,
                row=writer.row_of(name),
                chunk_checksum=checksums[index % volumes],
                patient_id=name,
                series_uid=f"1.2.826.0.1.3680043.{index}",
                source=f"{name}/{index}",
                instance_numbers=tuple(range(1, INSTANCE_NUMBERS + 1)),
            )
            chunk = folder / spec.name / chunk_key(record.row)
            chunk.parent.mkdir(parents=True)
            os.link(small / chunk_key(index % volumes), chunk)
            writer.add_record(record)
        writer.compact()
    return folder / spec.name


def _make_record(row: int, name: str, volume: Voxels, spec: StoreSpec) -> Record:
    shape = (volume.shape[0], volume.shape[1], volume.shape[2])
    digest = volume_checksum(volume)
    return Record(
        row=row,
        spec_digest=spec.digest,
        input_digest=digest,
        content_digest=digest,
        stat_digest="",
        chunk_checksum=digest,
        patient_id=name,
        study_uid=name,
        series_uid=name,
        ids="kept",
        layout="made up",
        source=name,
        transfer_syntax="",
        shape=shape,
        spacing_mm=(1.0, 1.0, 1.0),
        origin_mm=(0.0, 0.0, 0.0),
        axes=((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)),
        native_spacing_mm=(1.0, 1.0, 1.0),
        permutation=(0, 1, 2),
        flips=(False, False, False),
        resampled=False,
        canonical_shape=shape,
        canonical_first_mm=(0.0, 0.0, 0.0),
        box_method="whole",
        box_confidence=1.0,
        box_low_mm=(0.0, 0.0, 0.0),
        box_high_mm=(float(shape[0]), float(shape[1]), float(shape[2])),
        box_start=(0, 0, 0),
        box_stop=shape,
        organs={},
        hu_p5=None,
        hu_median=None,
        hu_p95=None,
        instance_numbers=tuple(range(1, shape[0] + 1)),
        flags=(),
        versions={},
    )
