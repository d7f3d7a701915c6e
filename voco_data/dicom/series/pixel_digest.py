"""A digest of the pixels of one file, which does not depend on how they are encoded."""

from __future__ import annotations

from pathlib import Path

import xxhash

from voco_data.dicom.binary_format import RLE_LOSSLESS, UNCOMPRESSED
from voco_data.dicom.header import parse_frames, read_dataset
from voco_data.dicom.pixels.decode import FrameReader
from voco_data.dicom.pixels.modality import parse_modality_transforms
from voco_data.errors import SeriesRefused
from voco_data.limits import deadline

LIMIT_S = 5.0
"""Time limit for a file."""

UNKNOWN = "unknown"
"""Kind of the digest of a file that cannot be read."""


def pixel_digest(path: Path) -> tuple[str, str]:
    """The kind of a digest of the pixels of a file, and the digest. Only equal kinds compare.

    Uncompressed and RLE pixels are decoded to HU. Others are hashed as they are encoded, because a
    decoder may end its process: their kind is the transfer syntax. A file without pixels that can
    be read is hashed whole.
    """
    try:
        with deadline(LIMIT_S):
            dataset = read_dataset(path, pixels=True)
            headers = parse_frames(dataset, path)
            syntax = headers[0].transfer_syntax
            if syntax not in UNCOMPRESSED and syntax != RLE_LOSSLESS:
                encoded = dataset.get("PixelData")
                return syntax, xxhash.xxh3_128_hexdigest(encoded or b"")
            frames = FrameReader(dataset, (headers[0].rows, headers[0].columns), len(headers))
            state = xxhash.xxh3_128()
            modalities = parse_modality_transforms(dataset, len(headers))
            for header, modality in zip(headers, modalities, strict=True):
                state.update(modality.to_hu(frames.read(header.frame)).tobytes())
            return "HU", state.hexdigest()
    except SeriesRefused:
        return _file_digest(path)


def _file_digest(path: Path) -> tuple[str, str]:
    """The digest of a whole file, for files of which no pixels can be read."""
    state = xxhash.xxh3_128()
    try:
        with path.open("rb") as file:
            while block := file.read(2**20):
                state.update(block)
    except OSError:  # the worker reads it again, and gives the reason
        return UNKNOWN, str(path)
    return "file", state.hexdigest()
