"""The Zarr metadata of a store and its array `valid`, which follow from the spec and the rows."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from functools import cache

import numpy as np
import zarr
from zarr.abc.buffer import Buffer
from zarr.codecs import BloscCodec, BytesCodec
from zarr.storage import MemoryStore

from voco_data.storage import Storage
from voco_data.store.chunks.codec import BLOSC
from voco_data.store.keys import (
    ARRAYS,
    GROUP_METADATA,
    VALID,
    VOLUMES,
    array_metadata,
    valid_chunk_key,
)
from voco_data.store.spec import FORMAT, StoreSpec

VALID_CHUNK = 65536
"""Rows in a chunk of `valid`, one byte each."""
_COMPARED = ("zarr_format", "node_type", "shape", "data_type", "chunk_grid", "codecs", "fill_value")
"""Members of an array's metadata that must be ours for its bytes to be read as we wrote them."""


def ensure_metadata(storage: Storage, spec: StoreSpec) -> None:
    """Write the metadata that is missing or cannot be read; the rest is left for `read_spec`.

    The arrays come first: a folder without group metadata is no store yet.
    """
    missing = [name for name in ARRAYS if not _is_metadata_of(storage, name, spec)]
    if missing:
        documents = _array_documents(spec)
        for name in missing:
            storage.write(array_metadata(name), documents[name])
    if not _has_group_attributes(storage):
        attributes = {
            "format": FORMAT,
            "spec": json.loads(spec.canonical_json()),
            "spec_digest": spec.digest,
        }
        group = {"zarr_format": 3, "node_type": "group", "attributes": {"voco": attributes}}
        storage.write(GROUP_METADATA, json.dumps(group, indent=2).encode())


def length(storage: Storage) -> int:
    """N of `volumes`."""
    shape = json.loads(storage.read(array_metadata(VOLUMES)))["shape"]
    return int(shape[0])


def resize(storage: Storage, size: int) -> None:
    """Set N of both arrays. The metadata files are replaced atomically."""
    for name in ARRAYS:
        key = array_metadata(name)
        metadata = json.loads(storage.read(key))
        if metadata["shape"][0] != size:
            metadata["shape"][0] = size
            storage.write(key, json.dumps(metadata, indent=2).encode())


def write_valid(storage: Storage, rows: Iterable[int], size: int) -> None:
    """Make `valid`, of `size` rows, true at `rows` alone. Writes only chunks that differ."""
    for key, chunk in _differing_chunks(storage, rows, size):
        storage.write(key, chunk)


def find_problems(
    storage: Storage, spec: StoreSpec, rows: Iterable[int], size: int
) -> Iterator[str]:
    """What is wrong with the arrays' metadata and with `valid`, for a store of these rows."""
    damaged = [name for name in ARRAYS if not _is_metadata_of(storage, name, spec)]
    yield from (f"{array_metadata(name)} does not describe the array" for name in damaged)
    if not damaged and length(storage) != size:
        yield f"{array_metadata(VOLUMES)} gives {length(storage)} rows, expected {size}"
    for key, _ in _differing_chunks(storage, rows, size):
        yield f"{key} does not say which rows hold a volume"


def _differing_chunks(
    storage: Storage, rows: Iterable[int], size: int
) -> Iterator[tuple[str, bytes]]:
    """Key and correct bytes of each chunk of `valid` that is missing or has other bytes."""
    valid = np.zeros((-(-size // VALID_CHUNK), VALID_CHUNK), np.bool_)
    flat = valid.reshape(-1)
    for row in rows:
        flat[row] = True
    for number, chunk in enumerate(valid):
        key, data = valid_chunk_key(number), chunk.tobytes()
        if storage.size(key) != len(data) or storage.read(key) != data:
            yield key, data


def _has_group_attributes(storage: Storage) -> bool:
    """Whether the group's metadata can be read and has attributes of ours."""
    try:
        attributes = json.loads(storage.read(GROUP_METADATA))["attributes"]["voco"]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return isinstance(attributes, dict)


def _is_metadata_of(storage: Storage, name: str, spec: StoreSpec) -> bool:
    """Whether the metadata of the array `name` can be read and is ours, whatever its N."""
    try:
        metadata = json.loads(storage.read(array_metadata(name)))
        size = metadata["shape"][0]
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return False
    expected = json.loads(_array_documents(spec)[name])
    expected["shape"][0] = size
    same = all(metadata.get(member) == expected[member] for member in _COMPARED)
    return same and isinstance(size, int) and size >= 0


@cache
def _array_documents(spec: StoreSpec) -> dict[str, bytes]:
    """Metadata of both arrays with N = 0, as zarr-python writes it."""
    objects: dict[str, Buffer] = {}
    memory = MemoryStore(objects)
    lz4 = BloscCodec.from_dict({"name": "blosc", "configuration": dict(BLOSC)})
    window = {"level_hu": spec.window_level_hu, "width_hu": spec.window_width_hu}
    zarr.create_array(
        memory,
        name=VOLUMES,
        shape=(0, *spec.grid),
        chunks=(1, *spec.grid),
        dtype=spec.dtype.name,
        serializer=BytesCodec(),
        compressors=lz4 if spec.compression == "lz4" else None,
        fill_value=spec.window.lowest,
        dimension_names=("series", "z", "y", "x"),
        attributes={"window": window, "axes": "z superior, y posterior, x left"},
    )
    zarr.create_array(
        memory,
        name=VALID,
        shape=(0,),
        chunks=(VALID_CHUNK,),
        dtype="bool",
        compressors=None,
        fill_value=False,
        dimension_names=("series",),
    )
    return {name: objects[array_metadata(name)].to_bytes() for name in ARRAYS}
