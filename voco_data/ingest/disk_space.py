"""Check that the disk has space for what a run writes."""

from __future__ import annotations

from collections.abc import Mapping

from voco_data.errors import VocoError
from voco_data.storage import LocalStorage, Storage
from voco_data.store import StoreSpec

SPARE_BYTES = 64 * 2**20
"""Space for catalogues, ledger and report, in bytes."""
BLOCK_BYTES = 4096
"""Block size of the file system: a file takes whole blocks, a folder at least one."""
BLOCKS_PER_VOLUME = 7
"""Blocks beside the voxels: three folders of the chunk, its last block, three for the record with
the maps of many organs."""
PREVIEW_BYTES = 4 * BLOCK_BYTES
"""Size of a preview, about 12 kB. All stores share it."""


def needed_bytes(new_series: Mapping[StoreSpec, int]) -> int:
    """Bytes that a run writes, at most, for so many new series of each store; 0 for none."""
    overhead = BLOCKS_PER_VOLUME * BLOCK_BYTES
    stores = sum(count * (spec.volume_bytes + overhead) for spec, count in new_series.items())
    previews = max(new_series.values(), default=0) * PREVIEW_BYTES
    return stores + previews + SPARE_BYTES if stores else 0


def check_disk_space(root: Storage, new_series: Mapping[StoreSpec, int]) -> None:
    """Raise VocoError if the root has no space for this number of new series of each store."""
    free, needed = free_bytes(root), max(needed_bytes(new_series), SPARE_BYTES)
    if free is not None and free < needed:
        raise VocoError(
            f"{root}: {free / 1e9:.1f} GB free, up to {needed / 1e9:.1f} GB needed for "
            f"{max(new_series.values(), default=0)} series; free some space or choose another "
            "--root"
        )


def free_bytes(root: Storage) -> int | None:
    """Free space in bytes for a root, which need not exist; None if it is not known."""
    folder = root.local_folder()
    if folder is None:
        return root.free_bytes()
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    return LocalStorage(existing).free_bytes()
