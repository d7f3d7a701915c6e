"""Silhouettes of organs on the grid of a store: how records hold them, and how they are read.

Of each organ a record holds one text. It is the Base64 of a zlib stream of bits: the coronal map
(Z, X), then the sagittal map (Z, Y), both in C order, most significant bit first, and zero bits to
the end of the last byte. See clause 11 of STORE.md.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from voco_data.errors import StoreCorrupt
from voco_data.storage import ReadableStorage
from voco_data.store.record import Record, read_record
from voco_data.volumes import Index

Bits = npt.NDArray[np.bool_]

_LEVEL = 9


class Silhouette(NamedTuple):
    """The projections of one organ onto two planes of a volume (Z, Y, X)."""

    coronal: Bits
    """(Z, X): the organ seen from the front."""
    sagittal: Bits
    """(Z, Y): the organ seen from the side."""


@dataclass(frozen=True, slots=True)
class OrganMaps:
    """Silhouettes of R organs in the volumes of N series."""

    organs: tuple[str, ...]
    """The names of the organs, in the order of the axis R."""
    coronal: Bits
    """(N, R, Z, X)."""
    sagittal: Bits
    """(N, R, Z, Y)."""
    is_known: Bits
    """(N, R): whether a mask tells where the organ is. Then an empty map means that no voxel of the
    organ is in the volume. The maps of an organ that is not known are empty too."""

    @classmethod
    def unknown(cls, n: int, organs: Sequence[str], grid: Index) -> OrganMaps:
        """Maps of `n` series on `grid` (Z, Y, X) in which no organ is known."""
        depth, height, width = grid
        return cls(
            organs=tuple(organs),
            coronal=np.zeros((n, len(organs), depth, width), bool),
            sagittal=np.zeros((n, len(organs), depth, height), bool),
            is_known=np.zeros((n, len(organs)), bool),
        )

    def set(self, index: int, silhouettes: Mapping[str, Silhouette]) -> None:
        """Set the maps of a series to those of `silhouettes`, whose organs are known."""
        for organ, name in enumerate(self.organs):
            if name in silhouettes:
                self.coronal[index, organ], self.sagittal[index, organ] = silhouettes[name]
                self.is_known[index, organ] = True


def encode_silhouette(silhouette: Silhouette) -> str:
    """The text of a silhouette in a record."""
    bits = np.concatenate([plane.ravel() for plane in silhouette])
    return base64.b64encode(zlib.compress(np.packbits(bits).tobytes(), _LEVEL)).decode()


def decode_silhouette(text: str, grid: Index) -> Silhouette:
    """The silhouette that `encode_silhouette` made on `grid` (Z, Y, X).

    Raises ValueError for a text that is damaged or of another grid. No more bytes are made than a
    silhouette on `grid` has.
    """
    depth, height, width = grid
    n_coronal, n_sagittal = depth * width, depth * height
    size = -(-(n_coronal + n_sagittal) // 8)
    # Of bytes that it cannot compress, zlib makes 5 more a block of 16 kB, and some at the ends.
    if len(text) > 4 * (size + size // 1024 + 64) // 3:
        raise ValueError(f"a text of {len(text)} characters for {size} bytes")
    stream = zlib.decompressobj()
    try:
        data = stream.decompress(base64.b64decode(text, validate=True), size + 1)
    except zlib.error as error:
        raise ValueError(str(error)) from error
    if len(data) != size or not stream.eof or stream.unused_data:
        raise ValueError(f"expected {size} bytes for the grid {depth} x {height} x {width}")
    bits = np.unpackbits(np.frombuffer(data, np.uint8), count=n_coronal + n_sagittal).astype(bool)
    return Silhouette(
        bits[:n_coronal].reshape(depth, width), bits[n_coronal:].reshape(depth, height)
    )


def read_silhouettes(
    store: ReadableStorage, row: int, grid: Index, organs: Collection[str]
) -> dict[str, Silhouette]:
    """The silhouettes of `organs` in the record of `row`, of those that its mask tells.

    Raises StoreCorrupt for a record that is missing or damaged.
    """
    record = read_record(store, row)
    if record is None:
        raise StoreCorrupt("its record is missing")
    return _decode_maps(record, grid, organs)


def check_organ_maps(record: Record, grid: Index) -> None:
    """Raise StoreCorrupt if an organ map of a record cannot be decoded."""
    _decode_maps(record, grid, record.organ_maps)


def _decode_maps(record: Record, grid: Index, organs: Collection[str]) -> dict[str, Silhouette]:
    silhouettes = {}
    for organ in organs:
        if organ in record.organ_maps:
            try:
                silhouettes[organ] = decode_silhouette(record.organ_maps[organ], grid)
            except (TypeError, ValueError) as error:
                raise StoreCorrupt(f"the map of {organ} cannot be decoded ({error})") from error
    return silhouettes
