"""A store, opened for reading: a Zarr v3 group of volumes with records. See STORE.md.

Needs NumPy, pandas, pyarrow, xxhash and numcodecs only, so that a GPU machine can stream from it.
Opening reads three columns of the catalogue. A volume is one chunk, and is read straight into the
caller's memory. Chunks of a store in a bucket come through the cache of this machine.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import xxhash

from voco_data.errors import StoreCorrupt, is_file_error
from voco_data.storage.base import Storage
from voco_data.storage.urls import open_storage
from voco_data.store import catalogue
from voco_data.store.chunks import reader
from voco_data.store.chunks.aligned import aligned
from voco_data.store.chunks.cache import ChunkCache
from voco_data.store.chunks.codec import DamagedChunk, decode
from voco_data.store.chunks.mapped_files import FileIdentity, ReplacedChunk
from voco_data.store.keys import CHUNKS, chunk_key
from voco_data.store.metadata import read_spec
from voco_data.store.record import Record
from voco_data.store.spec import StoreSpec

_TRIES = 3
"""Of a first read: a run may just be replacing the file."""


class Store:
    """A store opened for reading. Holds no pixels.

    Safe to read from several threads at once. Another run may add to the store meanwhile: this
    object stays with the rows that it found.
    """

    def __init__(
        self,
        storage: Storage,
        spec: StoreSpec,
        lines: catalogue.Snapshot | catalogue.Lines,
        cache: ChunkCache | None = None,
    ) -> None:
        """`cache` is where chunks of a remote store are read; None: from the place itself."""
        self.storage = storage
        self._cache = cache
        folder = storage.local()
        self._folder = None if folder is None else f"{folder}/{CHUNKS}"
        self.spec = spec
        self._lines = lines
        found = lines.read(("row", "series_uid", "chunk_checksum"))
        self.rows: npt.NDArray[np.int64] = found["row"].to_numpy()
        """int64 (N,), ascending: every stored row."""
        rows = self.rows.tolist()
        self._checksums = dict(zip(rows, found["chunk_checksum"].to_pylist(), strict=True))
        self._series = dict(zip(rows, found["series_uid"].to_pylist(), strict=True))
        self._checked: dict[int, FileIdentity] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        """Another process opens the store itself."""
        return (Store.open, (self.storage,))

    @classmethod
    def open(cls, path: str | Path | Storage, *, cached: bool = True) -> Store:
        """Open the store at `path`, a folder or a URL.

        Chunks of a store elsewhere come through the local cache, unless `cached` is false.
        Raises InputError if it is not a store, is of a newer format, or its spec was edited.
        """
        storage = open_storage(path)
        spec, lines = read_spec(storage), catalogue.Snapshot(storage)
        if not cached or storage.local() is not None:
            return cls(storage, spec, lines)
        cache = ChunkCache(storage, spec.digest, _checksum_of(spec))
        store = cls(storage, spec, lines, cache)
        cache.expect(len(store) * math.prod(spec.grid))
        return store

    @cached_property
    def catalogue(self) -> pd.DataFrame:
        """All that is known of the stored series, a line each, sorted by row. Read when asked for.

        Columns are those of `voco_data.store.catalogue`.
        """
        return self._lines.table()

    @classmethod
    def of_records(cls, storage: Storage, spec: StoreSpec, records: Iterable[Record]) -> Store:
        """A store of these rows alone, whatever its catalogue says."""
        return cls(storage, spec, catalogue.Lines(records))

    @property
    def path(self) -> Path:
        """The store's folder on this machine. A store in a bucket has none."""
        folder = self.storage.local()
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
        """How many series are stored."""
        return len(self._checksums)

    def read(self, row: int, out: npt.NDArray[np.uint8] | None = None) -> npt.NDArray[np.uint8]:
        """The volume at `row`, uint8 (Z, Y, X), into `out` where given (C-contiguous).

        The first read of a row in a process checks its bytes. Raises StoreCorrupt that names the
        series, and KeyError for a row that is not in the catalogue.
        """
        if row not in self._checksums:
            raise KeyError(row)
        grid = self.spec.grid
        if out is None:
            out = aligned(grid[0] * grid[1] * grid[2]).reshape(grid)
        elif out.shape != grid or out.dtype != np.uint8 or not out.flags.c_contiguous:
            raise ValueError(f"out must be C-contiguous uint8 {grid}, got {out.dtype} {out.shape}")
        compression = self.spec.compression

        def read(path: str, known: FileIdentity) -> None:
            reader.read_chunk(path, compression, out, known)

        if not self._read_again(row, read):
            self._reading(row, lambda path: self._read_first(row, path, out))
        return out

    def _read_first(self, row: int, path: str, out: npt.NDArray[np.uint8]) -> None:
        """The first read of a file in this process: check the bytes."""
        for _ in range(_TRIES):
            reader.forget(path)
            with suppress(ReplacedChunk):
                found = reader.read_chunk(path, self.spec.compression, out)
                break
        else:
            raise DamagedChunk("its file is replaced again and again")
        if xxhash.xxh3_128_hexdigest(out.data) != self._checksums[row]:
            raise DamagedChunk("its bytes do not match the checksum")
        if self._folder is not None or self._cache is not None:
            self._checked[row] = found

    def _read_again(self, row: int, read: Callable[[str, FileIdentity], None]) -> bool:
        """Read a row whose file was checked. False if none was, or it is another file now."""
        known = self._checked.get(row)
        if known is None:
            return False
        try:
            self._reading(row, lambda path: read(path, known))
        except ReplacedChunk:
            return False
        return True

    def read_slices(
        self, row: int, indices: Sequence[int], out: npt.NDArray[np.uint8] | None = None
    ) -> npt.NDArray[np.uint8]:
        """Slices `indices` of the volume at `row`, uint8 (n, Y, X), into `out` where given.

        Once the whole chunk was checked, only the slices' own bytes are read; a compressed chunk
        is decoded whole each time. Raises as `read` does, and IndexError for a slice outside
        0..Z-1.
        """
        depth, height, width = self.spec.grid
        shape = (len(indices), height, width)
        if out is None:
            out = aligned(len(indices) * height * width).reshape(shape)
        elif out.shape != shape or out.dtype != np.uint8 or not out.flags.c_contiguous:
            raise ValueError(f"out must be C-contiguous uint8 {shape}, got {out.dtype} {out.shape}")
        if any(not 0 <= index < depth for index in indices):
            raise IndexError(f"slices are 0 to {depth - 1}, got {list(indices)}")
        plane = height * width
        starts = [int(index) * plane for index in indices]
        flat = out.reshape(len(indices), plane)

        def read(path: str, known: FileIdentity) -> None:
            reader.read_parts(path, starts, depth * plane, flat, known)

        if self.spec.compression != "none" or not self._read_again(row, read):
            np.take(self.read(row, self._whole_volume()), indices, axis=0, out=out)
        return out

    def read_floats(self, row: int, out: npt.NDArray[np.float32]) -> None:
        """The volume at `row`, 0 to 255, into `out`, float32 (Z, Y, X), C-contiguous.

        Converts on the way, in less time than a second look at the bytes takes. Raises as `read`.
        """
        if out.shape != self.grid or out.dtype != np.float32 or not out.flags.c_contiguous:
            raise ValueError(
                f"out must be C-contiguous float32 {self.grid}, got {out.dtype} {out.shape}"
            )
        compression = self.spec.compression

        def read(path: str, known: FileIdentity) -> None:
            reader.read_floats(path, compression, out, known)

        if not self._read_again(row, read):
            np.copyto(out, self.read(row, self._whole_volume()))

    def view_slice(self, row: int, index: int) -> npt.NDArray[np.uint8]:
        """Slice `index` of the volume at `row`, uint8 (Y, X), where it lies in the page cache.

        To be read only, and soon: a file that is cut short meanwhile ends the process. A copy
        where it cannot be had so. Raises as `read_slices`.
        """
        depth, height, width = self.spec.grid
        known = self._checked.get(row)
        if known is None or self._folder is None or self.spec.compression != "none":
            return self.read_slices(row, (index,)).reshape(height, width)
        if not 0 <= index < depth:
            raise IndexError(f"slices are 0 to {depth - 1}, got {index}")
        path, plane = f"{self._folder}/{row}/0/0/0", height * width
        try:
            whole = reader.view(path, depth * plane, known)
        except ReplacedChunk:
            whole = None
        except (OSError, DamagedChunk) as error:
            if self._may_be_sound(error):
                raise
            raise self._corrupt(row, error) from error
        if whole is None:
            return self.read_slices(row, (index,)).reshape(height, width)
        return whole[index * plane : (index + 1) * plane].reshape(height, width)

    @cached_property
    def _local(self) -> threading.local:
        return threading.local()

    def _whole_volume(self) -> npt.NDArray[np.uint8]:
        """Memory of this thread for one volume."""
        volume: npt.NDArray[np.uint8] | None = getattr(self._local, "volume", None)
        if volume is None:
            z, y, x = self.spec.grid
            volume = self._local.volume = aligned(z * y * x).reshape(self.spec.grid)
        return volume

    def _reading(self, row: int, read: Callable[[str], None]) -> None:
        """Let `read` have the chunk's file.

        Raises StoreCorrupt that names the series, ReplacedChunk, OSError.
        """
        try:
            if self._folder is not None:
                read(f"{self._folder}/{row}/0/0/0")
                return
            self._reading_copy(row, read)
        except (OSError, DamagedChunk, StoreCorrupt) as error:
            if self._may_be_sound(error):
                raise
            raise self._corrupt(row, error) from error

    def _reading_copy(self, row: int, read: Callable[[str], None]) -> None:
        """The same from a bucket. A copy that is damaged, or made room, is fetched once more."""
        for _ in range(0 if self._cache is None else 2):
            assert self._cache is not None
            path = str(self._cache.file(chunk_key(row), self._checksums[row]))
            try:
                read(path)
            except (FileNotFoundError, DamagedChunk):
                self._cache.drop(self._checksums[row])
            else:
                return
        # Into a file of our own, which makes room for nobody.
        with self.storage.fetched(chunk_key(row)) as copy:
            try:
                read(str(copy))
            finally:
                reader.forget(str(copy))  # gone in a moment, and nobody asks again

    def _may_be_sound(self, error: Exception) -> bool:
        """Whether it is this machine's trouble, or the network's, and says nothing of the store."""
        if not isinstance(error, OSError) or isinstance(error, FileNotFoundError):
            return False
        return self._folder is None or not is_file_error(error)

    def _corrupt(self, row: int, error: OSError | DamagedChunk | StoreCorrupt) -> StoreCorrupt:
        self.storage.touch(chunk_key(row))  # the next run over its series looks at it again
        what = (error.strerror if isinstance(error, OSError) else None) or str(error)
        # An object cannot be touched: only a run that reads everything finds it.
        again = "voco preprocess" if self._folder is not None else "voco preprocess --deep"
        return StoreCorrupt(
            f"{self.storage.name}: series {self._series[row]} (row {row}): {what}; "
            f"rerun {again} to rebuild it"
        )


def _checksum_of(spec: StoreSpec) -> Callable[[bytes], str]:
    """How the checksum of a volume is found from the bytes of its chunk. Raises StoreCorrupt."""

    def checksum(data: bytes) -> str:
        if spec.compression == "none":
            return xxhash.xxh3_128_hexdigest(data)
        volume = np.empty(math.prod(spec.grid), np.uint8)
        try:
            decode(memoryview(data), volume.data)
        except DamagedChunk as error:
            raise StoreCorrupt(str(error)) from error
        return xxhash.xxh3_128_hexdigest(volume.data)

    return checksum
