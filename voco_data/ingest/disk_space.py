"""Whether what a run will add fits on the disk."""

from __future__ import annotations

import math
from collections.abc import Mapping

from voco_data.errors import VocoError
from voco_data.storage.base import Storage
from voco_data.storage.local import LocalStorage
from voco_data.store.spec import StoreSpec

SPARE_BYTES = 64 * 2**20
"""Free space that must remain for catalogues, ledger and report."""
BLOCK_BYTES = 4096
"""A file takes whole blocks, and a folder at least one."""
BLOCKS_A_VOLUME = 6
"""Beside the voxels: the three folders of a chunk, its last block, and two for the record."""
PREVIEW_BYTES = 4 * BLOCK_BYTES
"""A preview is about 12 kB. All stores share it."""


def volume_bytes(spec: StoreSpec) -> int:
    """Voxels of one volume, a byte each."""
    return math.prod(spec.grid)


def needed_bytes(new: Mapping[StoreSpec, int]) -> int:
    """What a run adds that brings so many new series to each store. 0 for none."""
    beside = BLOCKS_A_VOLUME * BLOCK_BYTES
    stores = sum(count * (volume_bytes(spec) + beside) for spec, count in new.items())
    previews = max(new.values(), default=0) * PREVIEW_BYTES
    return stores + previews + SPARE_BYTES if stores else 0


def check_disk_space(root: Storage, new: Mapping[StoreSpec, int]) -> None:
    """Refuse to start a run that could not end. Raises VocoError."""
    free, need = free_bytes(root), max(needed_bytes(new), SPARE_BYTES)
    if free is not None and free < need:
        raise VocoError(
            f"{root}: {free / 1e9:.1f} GB free, up to {need / 1e9:.1f} GB needed for "
            f"{max(new.values(), default=0)} series; free some space or choose another --root"
        )


def free_bytes(root: Storage) -> int | None:
    """Free space where a root is, or would be made; None where nothing says."""
    folder = root.local()
    if folder is None:
        return root.free_bytes()
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    return LocalStorage(there).free_bytes()
