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

from voco_data.storage import ReadableStorage, Storage
from voco_data.store.chunks.codec import BLOSC
from voco_data.store.keys import (
    ARRAYS,
    GROUP_METADATA,
    MAX_ROWS,
    VALID,
    VOLUMES,
    array_metadata,
    valid_chunk_key,
)
from voco_data.store.spec import FORMAT, StoreSpec

ROWS_PER_VALID_CHUNK = 65536
"""Rows in a chunk of `valid`, one byte each."""
_COMPARED_MEMBERS = (
    "zarr_format",
    "node_type",
    "shape",
    "data_type",
    "chunk_grid",
    "chunk_key_encoding",
    "codecs",
    "fill_value",
    "storage_transformers",
)
"""Members of an array's metadata that determine how its bytes are read."""


def ensure_metadata(storage: Storage, spec: StoreSpec) -> None:
    """Write the metadata that is missing or cannot be read. `read_spec` checks the rest.

    The metadata of the arrays is written first: a folder without group metadata is no store.
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


def read_n_rows(storage: ReadableStorage) -> int:
    """Read N of the array `volumes`, holes included."""
    shape = json.loads(storage.read(array_metadata(VOLUMES)))["shape"]
    return int(shape[0])


def resize(storage: Storage, n_rows: int) -> None:
    """Set N of both arrays. The metadata files are replaced atomically."""
    for name in ARRAYS:
        key = array_metadata(name)
        metadata = json.loads(storage.read(key))
        if metadata["shape"][0] != n_rows:
            metadata["shape"][0] = n_rows
            storage.write(key, json.dumps(metadata, indent=2).encode())


def write_valid(storage: Storage, rows: Iterable[int], n_rows: int) -> None:
    """Make `valid`, of shape (n_rows,), true at `rows` alone. Writes only chunks that differ."""
    for key, chunk in _differing_chunks(storage, rows, n_rows):
        storage.write(key, chunk)


def find_problems(
    storage: ReadableStorage, spec: StoreSpec, rows: Iterable[int], n_rows: int
) -> Iterator[str]:
    """Describe what is wrong with the arrays' metadata and with `valid`, one line a problem.

    `rows` are those that hold a volume, `n_rows` is N.
    """
    damaged = [name for name in ARRAYS if not _is_metadata_of(storage, name, spec)]
    yield from (f"{array_metadata(name)} does not describe the array" for name in damaged)
    if not damaged and read_n_rows(storage) != n_rows:
        yield f"{array_metadata(VOLUMES)} gives {read_n_rows(storage)} rows, expected {n_rows}"
    for key, _ in _differing_chunks(storage, rows, n_rows):
        yield f"{key} does not say which rows hold a volume"


def _differing_chunks(
    storage: ReadableStorage, rows: Iterable[int], n_rows: int
) -> Iterator[tuple[str, bytes]]:
    """Key and correct bytes of each chunk of `valid` that is missing or has other bytes."""
    valid = np.zeros((-(-n_rows // ROWS_PER_VALID_CHUNK), ROWS_PER_VALID_CHUNK), np.bool_)
    flat = valid.reshape(-1)
    for row in rows:
        flat[row] = True
    for number, chunk in enumerate(valid):
        key, data = valid_chunk_key(number), chunk.tobytes()
        if storage.size(key) != len(data) or storage.read(key) != data:
            yield key, data


def _has_group_attributes(storage: ReadableStorage) -> bool:
    """Whether the group's metadata can be read and has attributes of ours."""
    try:
        attributes = json.loads(storage.read(GROUP_METADATA))["attributes"]["voco"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False
    return isinstance(attributes, dict)


def _is_metadata_of(storage: ReadableStorage, name: str, spec: StoreSpec) -> bool:
    """Whether the metadata of the array `name` can be read and is ours, whatever its N."""
    try:
        metadata = json.loads(storage.read(array_metadata(name)))
        n_rows = metadata["shape"][0]
        metadata.setdefault("storage_transformers", [])  # optional in Zarr v3
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError):
        return False
    expected = json.loads(_array_documents(spec)[name])
    expected["shape"][0] = n_rows
    is_same = all(metadata.get(member) == expected[member] for member in _COMPARED_MEMBERS)
    return is_same and type(n_rows) is int and 0 <= n_rows <= MAX_ROWS


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
        chunks=(ROWS_PER_VALID_CHUNK,),
        dtype="bool",
        compressors=None,
        fill_value=False,
        dimension_names=("series",),
    )
    return {name: objects[array_metadata(name)].to_bytes() for name in ARRAYS}
