"""The Zarr metadata of a store, and the array `valid`: wholly determined by spec and rows."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr
from zarr.codecs import BytesCodec
from zarr.storage import MemoryStore

from voco_data import atomic
from voco_data.spec import StoreSpec
from voco_data.store import FORMAT

VALID_CHUNK = 65536
ARRAYS = ("volumes", "valid")
_DECISIVE = ("zarr_format", "node_type", "shape", "data_type", "chunk_grid", "codecs", "fill_value")


def ensure(path: Path, spec: StoreSpec) -> None:
    """Write what metadata is missing or cannot be read; what reads is left for `read_spec`.

    The arrays come first: a folder without group metadata is no store yet.
    """
    lacking = [name for name in ARRAYS if not _describes(path / name / "zarr.json", spec, name)]
    if lacking:
        documents = _arrays(spec)
        for name in lacking:
            atomic.write_text(path / name / "zarr.json", documents[name])
    if _attributes(path / "zarr.json") is None:
        attributes = {
            "format": FORMAT,
            "spec": json.loads(spec.canonical_json()),
            "spec_digest": spec.digest,
        }
        group = {"zarr_format": 3, "node_type": "group", "attributes": {"voco": attributes}}
        atomic.write_text(path / "zarr.json", json.dumps(group, indent=2))


def length(path: Path) -> int:
    """N of `volumes`."""
    shape = json.loads((path / "volumes" / "zarr.json").read_text())["shape"]
    return int(shape[0])


def resize(path: Path, size: int) -> None:
    """Set N of both arrays. The metadata files are replaced atomically."""
    for name in ARRAYS:
        file = path / name / "zarr.json"
        metadata = json.loads(file.read_text())
        if metadata["shape"][0] != size:
            metadata["shape"][0] = size
            atomic.write_text(file, json.dumps(metadata, indent=2))


def write_valid(path: Path, rows: npt.NDArray[np.int64], size: int) -> None:
    """Write the chunks of `valid`: true at `rows`, of `size` in all."""
    chunks = -(-size // VALID_CHUNK)
    valid = np.zeros(chunks * VALID_CHUNK, np.bool_)
    valid[rows] = True
    for index, chunk in enumerate(valid.reshape(chunks, VALID_CHUNK)):
        atomic.write_bytes(path / "valid" / "c" / str(index), chunk.data)


def problems(path: Path, spec: StoreSpec, rows: npt.NDArray[np.int64]) -> list[str]:
    """What is wrong with the arrays' metadata and with `valid`, for a store of these rows."""
    found = [
        f"{name}/zarr.json does not describe the array"
        for name in ARRAYS
        if not _describes(path / name / "zarr.json", spec, name)
    ]
    size = int(rows.max()) + 1 if len(rows) else 0
    if not found and length(path) != size:
        found.append(f"volumes/zarr.json gives {length(path)} rows, expected {size}")
    wanted = np.zeros(-(-size // VALID_CHUNK) * VALID_CHUNK, np.bool_)
    wanted[rows] = True
    for index, chunk in enumerate(wanted.reshape(-1, VALID_CHUNK)):
        file = path / "valid" / "c" / str(index)
        if not file.is_file() or file.read_bytes() != chunk.tobytes():
            found.append(f"valid/c/{index} does not say which rows hold a volume")
    return found


def _attributes(file: Path) -> dict[str, Any] | None:
    """Our attributes of a group; None where they are missing or cannot be read."""
    try:
        found = json.loads(file.read_text())["attributes"]["voco"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found if isinstance(found, dict) else None


def _describes(file: Path, spec: StoreSpec, name: str) -> bool:
    """Whether a metadata file is the one of our array, whatever N it gives."""
    try:
        found = json.loads(file.read_text())
        size = found["shape"][0]
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return False
    wanted = json.loads(_arrays(spec)[name])
    wanted["shape"][0] = size
    same = all(found.get(key) == wanted[key] for key in _DECISIVE)
    return same and isinstance(size, int) and size >= 0


@cache
def _arrays(spec: StoreSpec) -> dict[str, str]:
    """Metadata of both arrays without rows, as zarr-python writes it."""
    memory = MemoryStore()
    window = {"level_hu": spec.window_level_hu, "width_hu": spec.window_width_hu}
    zarr.create_array(
        memory,
        name="volumes",
        shape=(0, *spec.grid),
        chunks=(1, *spec.grid),
        dtype="uint8",
        serializer=BytesCodec(),
        compressors=None,
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
    files = memory._store_dict
    return {name: files[f"{name}/zarr.json"].to_bytes().decode() for name in ARRAYS}
