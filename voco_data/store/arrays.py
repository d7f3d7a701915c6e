"""The Zarr metadata of a store, and the array `valid`: wholly determined by spec and rows."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any

import numpy as np
import zarr
from zarr.abc.buffer import Buffer
from zarr.codecs import BloscCodec, BytesCodec
from zarr.storage import MemoryStore

from voco_data.storage.base import Storage
from voco_data.store.chunks.codec import BLOSC
from voco_data.store.metadata import FORMAT
from voco_data.store.spec import StoreSpec

VALID_CHUNK = 65536
ARRAYS = ("volumes", "valid")
_DECISIVE = ("zarr_format", "node_type", "shape", "data_type", "chunk_grid", "codecs", "fill_value")


def ensure(storage: Storage, spec: StoreSpec) -> None:
    """Write what metadata is missing or cannot be read; what reads is left for `read_spec`.

    The arrays come first: a folder without group metadata is no store yet.
    """
    lacking = [name for name in ARRAYS if not _describes(storage, f"{name}/zarr.json", spec, name)]
    if lacking:
        documents = _arrays(spec)
        for name in lacking:
            storage.write(f"{name}/zarr.json", documents[name])
    if _attributes(storage) is None:
        attributes = {
            "format": FORMAT,
            "spec": json.loads(spec.canonical_json()),
            "spec_digest": spec.digest,
        }
        group = {"zarr_format": 3, "node_type": "group", "attributes": {"voco": attributes}}
        storage.write("zarr.json", json.dumps(group, indent=2).encode())


def length(storage: Storage) -> int:
    """N of `volumes`."""
    shape = json.loads(storage.read("volumes/zarr.json"))["shape"]
    return int(shape[0])


def resize(storage: Storage, size: int) -> None:
    """Set N of both arrays. The metadata files are replaced atomically."""
    for name in ARRAYS:
        key = f"{name}/zarr.json"
        metadata = json.loads(storage.read(key))
        if metadata["shape"][0] != size:
            metadata["shape"][0] = size
            storage.write(key, json.dumps(metadata, indent=2).encode())


def write_valid(storage: Storage, rows: Iterable[int], size: int) -> None:
    """Write the chunks of `valid` that are not as they should be: true at `rows`, of `size`."""
    for key, chunk in _wrong_chunks(storage, rows, size):
        storage.write(key, chunk)


def problems(storage: Storage, spec: StoreSpec, rows: Iterable[int], size: int) -> Iterator[str]:
    """What is wrong with the arrays' metadata and with `valid`, for a store of these rows."""
    wrong = [name for name in ARRAYS if not _describes(storage, f"{name}/zarr.json", spec, name)]
    yield from (f"{name}/zarr.json does not describe the array" for name in wrong)
    if not wrong and length(storage) != size:
        yield f"volumes/zarr.json gives {length(storage)} rows, expected {size}"
    for key, _ in _wrong_chunks(storage, rows, size):
        yield f"{key} does not say which rows hold a volume"


def _wrong_chunks(storage: Storage, rows: Iterable[int], size: int) -> Iterator[tuple[str, bytes]]:
    """Key and right bytes of each chunk of `valid` that has other bytes, or none."""
    valid = np.zeros((-(-size // VALID_CHUNK), VALID_CHUNK), np.bool_)
    flat = valid.reshape(-1)
    for row in rows:
        flat[row] = True
    for number, chunk in enumerate(valid):
        key, data = f"valid/c/{number}", chunk.tobytes()
        if storage.size(key) != len(data) or storage.read(key) != data:
            yield key, data


def _attributes(storage: Storage) -> dict[str, Any] | None:
    """Our attributes of a group; None where they are missing or cannot be read."""
    try:
        found = json.loads(storage.read("zarr.json"))["attributes"]["voco"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found if isinstance(found, dict) else None


def _describes(storage: Storage, key: str, spec: StoreSpec, name: str) -> bool:
    """Whether a metadata file is the one of our array, whatever N it gives."""
    try:
        found = json.loads(storage.read(key))
        size = found["shape"][0]
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return False
    wanted = json.loads(_arrays(spec)[name])
    wanted["shape"][0] = size
    same = all(found.get(key) == wanted[key] for key in _DECISIVE)
    return same and isinstance(size, int) and size >= 0


@cache
def _arrays(spec: StoreSpec) -> dict[str, bytes]:
    """Metadata of both arrays without rows, as zarr-python writes it."""
    found: dict[str, Buffer] = {}
    memory = MemoryStore(found)
    lz4 = BloscCodec.from_dict({"name": "blosc", "configuration": dict(BLOSC)})
    window = {"level_hu": spec.window_level_hu, "width_hu": spec.window_width_hu}
    zarr.create_array(
        memory,
        name="volumes",
        shape=(0, *spec.grid),
        chunks=(1, *spec.grid),
        dtype="uint8",
        serializer=BytesCodec(),
        compressors=lz4 if spec.compression == "lz4" else None,
        fill_value=0,
        dimension_names=("series", "z", "y", "x"),
        attributes={"window": window, "axes": "z superior, y posterior, x left"},
    )
    zarr.create_array(
        memory,
        name="valid",
        shape=(0,),
        chunks=(VALID_CHUNK,),
        dtype="bool",
        compressors=None,
        fill_value=False,
        dimension_names=("series",),
    )
    return {name: found[f"{name}/zarr.json"].to_bytes() for name in ARRAYS}
