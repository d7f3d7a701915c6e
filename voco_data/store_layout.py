"""The empty store: metadata of its group and arrays, as Zarr v3 writes them."""

from __future__ import annotations

import json

import zarr
from zarr.abc.buffer import Buffer
from zarr.codecs import BloscCodec, BytesCodec
from zarr.storage import MemoryStore

from voco_data.chunk_codec import BLOSC
from voco_data.place import Place
from voco_data.spec import StoreSpec
from voco_data.store import FORMAT

VALID_CHUNK = 65536
"""Rows in one chunk of `valid`."""


def create(place: Place, spec: StoreSpec) -> None:
    """Make the empty arrays, then the group: without its metadata this is no store yet."""
    for name, metadata in _arrays(spec).items():
        place.write(f"{name}/zarr.json", metadata)
    attributes = {
        "format": FORMAT,
        "spec": json.loads(spec.canonical_json()),
        "spec_digest": spec.digest,
    }
    group = {"zarr_format": 3, "node_type": "group", "attributes": {"voco": attributes}}
    place.write("zarr.json", json.dumps(group, indent=2).encode())


def _arrays(spec: StoreSpec) -> dict[str, bytes]:
    """Metadata of `volumes` and `valid`, made by zarr-python in memory."""
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
    return {name: found[f"{name}/zarr.json"].to_bytes() for name in ("volumes", "valid")}
