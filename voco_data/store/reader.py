"""A store, opened for reading: a Zarr v3 group of volumes with records. See STORE.md.

Needs NumPy, pandas, pyarrow, xxhash and numcodecs only, so that a GPU machine can stream from it.
Opening reads three columns of the catalogue. A volume is one chunk, which is read directly into
the caller's memory. Chunks of a store in a bucket are cached on this machine.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import xxhash

from voco_data.cohort import PLACED_MASK
from voco_data.errors import StoreCorrupt, is_file_error
from voco_data.storage import ReadableStorage, open_storage
from voco_data.store import catalogue
from voco_data.store.chunks import reader as chunk_reader
from voco_data.store.chunks.cache import ChunkCache
from voco_data.store.chunks.codec import DamagedChunk, decode
from voco_data.store.chunks.mapped_files import BYTE, FileIdentity, ReplacedChunk
from voco_data.store.keys import chunk_key
from voco_data.store.organ_maps import OrganMaps, read_silhouettes
from voco_data.store.record import Record
from voco_data.store.spec import StoreSpec, read_spec
from voco_data.volumes import Voxel, Voxels, aligned_bytes, aligned_empty

_FIRST_READ_TRIES = 3
"""Attempts at a first read, as a run may replace the file during one."""
_FLOAT32 = np.dtype(np.float32)
_RECORD_THREADS = 8
"""Records that are read at once. Reads wait for the disk or the network."""


class Store:
    """A store opened for reading. Keeps no pixels in memory.

    Several threads may read at once. A run that adds to the store meanwhile does not change the
    rows of this object.
    """

    def __init__(
        self,
        storage: ReadableStorage,
        spec: StoreSpec,
        lines: catalogue.Snapshot | catalogue.RecordTable | catalogue.ChosenRows,
        cache: ChunkCache | None = None,
    ) -> None:
        """`cache` keeps chunks of a remote store; if it is None, each read is a request."""
        self.storage = storage
        self._cache = cache
        folder = storage.local_folder()
        self._folder = None if folder is None else str(folder)
        self.spec = spec
        self.dtype: np.dtype[Voxel] = spec.dtype
        """NumPy's type of a voxel, an integer."""
        self._lines = lines
        columns = lines.read(("row", "series_uid", "chunk_checksum"))
        self.rows: npt.NDArray[np.int64] = columns["row"].to_numpy()
        """int64 (N,), ascending: every stored row."""
        rows = self.rows.tolist()
        self._checksums = dict(zip(rows, columns["chunk_checksum"].to_pylist(), strict=True))
        self._series = dict(zip(rows, columns["series_uid"].to_pylist(), strict=True))
        self._verified: dict[int, FileIdentity] = {}
        """By row: the file whose bytes this process has verified."""

    def __reduce__(self) -> tuple[Callable[..., Store], tuple[Any, ...]]:
        """Pickle by storage: another process opens the store itself."""
        if isinstance(self._lines, catalogue.ChosenRows):
            return (_open_rows, (self.storage, self.rows.tolist()))
        return (Store.open, (self.storage,))

    @classmethod
    def open(cls, path: str | Path | ReadableStorage, *, cached: bool = True) -> Store:
        """Open the store at `path`, a folder or a URL.

        Chunks of a remote store are cached on this machine, unless `cached` is false. Raises
        InputError if it is not a store, has another format, or its spec was edited.
        """
        storage = open_storage(path)
        spec, lines = read_spec(storage), catalogue.Snapshot(storage)
        if not cached or storage.local_folder() is not None:
            return cls(storage, spec, lines)
        cache = ChunkCache(storage, spec.digest, _make_checksum(spec))
        store = cls(storage, spec, lines, cache)
        cache.warn_if_small(len(store) * spec.volume_bytes)
        return store

    @cached_property
    def catalogue(self) -> pd.DataFrame:
        """All columns of `voco_data.store.catalogue.COLUMNS`, one line a stored series.

        Sorted by row. Read at the first access.
        """
        return self._lines.table()

    @classmethod
    def from_records(
        cls, storage: ReadableStorage, spec: StoreSpec, records: Iterable[Record]
    ) -> Store:
        """Open the rows of `records` only, without reading the catalogue."""
        return cls(storage, spec, catalogue.RecordTable(records))

    def with_rows(self, rows: Collection[int]) -> Store:
        """The same store with these rows only, as if it had no others.

        Raises KeyError for a row that is not in the catalogue.
        """
        if missing := [row for row in rows if row not in self._checksums]:
            raise KeyError(missing[0])
        lines = catalogue.ChosenRows(self._lines, rows)
        return Store(self.storage, self.spec, lines, self._cache)

    @property
    def path(self) -> Path:
        """The store's folder on this machine. A store in a bucket has none."""
        folder = self.storage.local_folder()
        assert folder is not None
        return folder

    @property
    def digest(self) -> str:
        """Digest of the store's spec, 12 hex digits."""
        return self.spec.digest

    @property
    def grid(self) -> tuple[int, int, int]:
        """Shape (Z, Y, X) of every volume, in voxels."""
        return self.spec.grid

    def __len__(self) -> int:
        """Number of stored series."""
        return len(self._checksums)

    def read(self, row: int, out: Voxels | None = None) -> Voxels:
        """The volume at `row`, of type `dtype` (Z, Y, X), into `out` where given (C-contiguous).

        The first read of a row in a process verifies its bytes. Raises StoreCorrupt that names
        the series, and KeyError for a row that is not in the catalogue.
        """
        if row not in self._checksums:
            raise KeyError(row)
        grid = self.spec.grid
        if out is None:
            out = aligned_empty(grid, self.dtype)
        else:
            _check_array(out, grid, self.dtype)
        compression = self.spec.compression

        def read(path: str, identity: FileIdentity) -> None:
            chunk_reader.read_chunk(path, compression, out, identity)

        if not self._read_verified(row, read):
            self._read_file(row, lambda path: self._read_and_verify(row, path, out))
        return out

    def _read_and_verify(self, row: int, path: str, out: Voxels) -> None:
        """Read a file into `out` and compare its bytes with the checksum of `row`."""
        for _ in range(_FIRST_READ_TRIES):
            chunk_reader.forget(path)
            with suppress(ReplacedChunk):
                identity = chunk_reader.read_chunk(path, self.spec.compression, out)
                break
        else:
            raise DamagedChunk("its file is replaced again and again")
        if xxhash.xxh3_128_hexdigest(out.data) != self._checksums[row]:
            raise DamagedChunk("its bytes do not match the checksum")
        if self._folder is not None or self._cache is not None:
            self._verified[row] = identity

    def _read_verified(self, row: int, read: Callable[[str, FileIdentity], None]) -> bool:
        """Call `read` with the file that was verified for `row`.

        Returns False if no file was, or if another file has taken its place.
        """
        identity = self._verified.get(row)
        if identity is None:
            return False
        try:
            self._read_file(row, lambda path: read(path, identity))
        except ReplacedChunk:
            return False
        return True

    def read_slices(self, row: int, indices: Sequence[int], out: Voxels | None = None) -> Voxels:
        """Slices `indices` of the volume at `row`, of type `dtype` (n, Y, X), into `out` if given.

        Once the whole chunk was verified, only the slices' own bytes are read; a compressed chunk
        is decoded whole each time. Raises as `read`, and IndexError for a slice outside 0..Z-1.
        """
        depth, height, width = self.spec.grid
        shape = (len(indices), height, width)
        if out is None:
            out = aligned_empty(shape, self.dtype)
        else:
            _check_array(out, shape, self.dtype)
        if any(not 0 <= index < depth for index in indices):
            raise IndexError(f"slices are 0 to {depth - 1}, got {list(indices)}")
        slice_bytes = height * width * self.dtype.itemsize
        starts = [int(index) * slice_bytes for index in indices]
        content = out.reshape(len(indices), height * width).view(BYTE)

        def read(path: str, identity: FileIdentity) -> None:
            chunk_reader.read_parts(path, starts, depth * slice_bytes, content, identity)

        if self.spec.compression != "none" or not self._read_verified(row, read):
            np.take(self.read(row, self._scratch_volume()), indices, axis=0, out=out)
        return out

    def read_floats(self, row: int, out: npt.NDArray[np.float32]) -> None:
        """The stored values of the volume at `row` as float32 (Z, Y, X), in `out`, C-contiguous.

        Converting while copying takes less time than a second pass. Raises as `read`.
        """
        _check_array(out, self.grid, _FLOAT32)
        compression = self.spec.compression

        def read(path: str, identity: FileIdentity) -> None:
            chunk_reader.read_floats(path, compression, out, self.dtype, identity)

        if not self._read_verified(row, read):
            np.copyto(out, self.read(row, self._scratch_volume()))

    def view_slice(self, row: int, index: int) -> Voxels:
        """Slice `index` of the volume at `row`, of type `dtype` (Y, X).

        It is a read-only view of the page cache, or a copy where no view is possible. Use it at
        once: a file that is truncated meanwhile ends the process. Raises as `read_slices`.
        """
        depth, height, width = self.spec.grid
        identity = self._verified.get(row)
        if identity is None or self._folder is None or self.spec.compression != "none":
            return self.read_slices(row, (index,)).reshape(height, width)
        if not 0 <= index < depth:
            raise IndexError(f"slices are 0 to {depth - 1}, got {index}")
        path = f"{self._folder}/{chunk_key(row)}"
        slice_bytes = height * width * self.dtype.itemsize
        try:
            chunk = chunk_reader.view_chunk(path, depth * slice_bytes, identity)
        except ReplacedChunk:
            chunk = None
        except (OSError, DamagedChunk) as error:
            if not self._is_damage(error):
                raise
            raise self._report_damage(row, error) from error
        if chunk is None:
            return self.read_slices(row, (index,)).reshape(height, width)
        return np.ndarray((height, width), self.dtype, chunk, index * slice_bytes)

    def read_organ_maps(self, rows: Sequence[int], organs: Sequence[str]) -> OrganMaps:
        """Where the masks of the series in `rows` show `organs`, on the grid of the store.

        Names of organs are those of docs/masks.md. Only records of series with a mask are read.
        Raises StoreCorrupt that names the series, and KeyError for a row that is not in the
        catalogue.
        """
        if missing := [row for row in rows if row not in self._checksums]:
            raise KeyError(missing[0])
        lines = self._lines.read(("row", "flags")).to_pylist()
        masked = {line["row"] for line in lines if PLACED_MASK in line["flags"].split()}
        maps = OrganMaps.unknown(len(rows), organs, self.grid)

        def read(index: int) -> None:
            row = int(rows[index])
            try:
                maps.set(index, read_silhouettes(self.storage, row, self.grid, maps.organs))
            except StoreCorrupt as error:
                raise self._report_damage(row, error) from error

        with ThreadPoolExecutor(_RECORD_THREADS) as pool:
            for _ in pool.map(read, [i for i, row in enumerate(rows) if row in masked]):
                pass
        return maps

    @cached_property
    def _local(self) -> threading.local:
        return threading.local()

    def _scratch_volume(self) -> Voxels:
        """Memory of this thread for one volume, overwritten by each use."""
        volume: Voxels | None = getattr(self._local, "volume", None)
        if volume is None:
            volume = self._local.volume = aligned_empty(self.grid, self.dtype)
        return volume

    def _read_file(self, row: int, read: Callable[[str], None]) -> None:
        """Call `read` with the path of the row's chunk on this machine.

        Raises StoreCorrupt that names the series, ReplacedChunk, OSError.
        """
        try:
            if self._folder is not None:
                read(f"{self._folder}/{chunk_key(row)}")
            else:
                self._read_copy(row, read)
        except (OSError, DamagedChunk, StoreCorrupt) as error:
            if not self._is_damage(error):
                raise
            raise self._report_damage(row, error) from error

    def _read_copy(self, row: int, read: Callable[[str], None]) -> None:
        """Call `read` with a copy of the chunk of a remote store.

        A cached copy that is damaged, or was evicted, is fetched once more.
        """
        for _ in range(0 if self._cache is None else 2):
            assert self._cache is not None
            path = str(self._cache.fetch(chunk_key(row), self._checksums[row]))
            try:
                read(path)
            except (FileNotFoundError, DamagedChunk):
                self._cache.remove(self._checksums[row])
            else:
                return
        # A temporary file of this read alone: other readers cannot evict it.
        with self.storage.as_file(chunk_key(row)) as copy:
            try:
                read(str(copy))
            finally:
                chunk_reader.forget(str(copy))  # the file is removed now

    def _is_damage(self, error: Exception) -> bool:
        """Whether an error means that the store is damaged.

        Errors of this machine or of the network do not.
        """
        if not isinstance(error, OSError) or isinstance(error, FileNotFoundError):
            return True
        return self._folder is not None and is_file_error(error)

    def _report_damage(
        self, row: int, error: OSError | DamagedChunk | StoreCorrupt
    ) -> StoreCorrupt:
        """Make the error that names the series, and mark the chunk for the next run to check."""
        self.storage.touch(chunk_key(row))
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        # An object cannot be touched, so only a run that reads everything finds it.
        command = "voco preprocess" if self._folder is not None else "voco preprocess --deep"
        return StoreCorrupt(
            f"{self.storage.name}: series {self._series[row]} (row {row}): {reason}; "
            f"rerun {command} to rebuild it"
        )


def _open_rows(storage: ReadableStorage, rows: Sequence[int]) -> Store:
    return Store.open(storage).with_rows(rows)


def _check_array(out: npt.NDArray[Any], shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    if out.shape != shape or out.dtype != dtype or not out.flags.c_contiguous:
        raise ValueError(f"out must be C-contiguous {dtype} {shape}, got {out.dtype} {out.shape}")


def _make_checksum(spec: StoreSpec) -> Callable[[bytes], str]:
    """A function from the bytes of a chunk to the checksum of its volume; raises StoreCorrupt."""

    def checksum(data: bytes) -> str:
        if spec.compression == "none":
            return xxhash.xxh3_128_hexdigest(data)
        content = aligned_bytes(spec.volume_bytes)
        try:
            decode(memoryview(data), content.data)
        except DamagedChunk as error:
            raise StoreCorrupt(str(error)) from error
        return xxhash.xxh3_128_hexdigest(content.data)

    return checksum
