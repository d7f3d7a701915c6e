"""Encoded frames to stored values: a decoder by transfer syntax, then the stored bits and sign."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

import imagecodecs
import numpy as np
import numpy.typing as npt
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.encaps import generate_frames

from voco_data.dicom.binary_format import (
    EXPLICIT_BIG_ENDIAN,
    RLE_LOSSLESS,
    UNCOMPRESSED,
    UNDEFINED_LENGTH,
)
from voco_data.dicom.header import ALLOCATED_BITS, describe_uid, transfer_syntax
from voco_data.dicom.pixels.frame_headers import (
    FrameHeader,
    check_rle_header,
    parse_jpeg2000_header,
    parse_jpeg_header,
)
from voco_data.dicom.values import DatasetValues
from voco_data.errors import SeriesRefused
from voco_data.reasons import Reason

Raw = npt.NDArray[np.generic]
"""Values of a codec or of the file, of BitsAllocated bits."""
Stored = npt.NDArray[np.integer]
"""Stored values (PS3.5 8.1.1): the BitsStored bits, with their sign."""

MAX_EVEN_PADDING_BYTES = 1
"""A value has an even length (PS3.5 7.1.1)."""
END_MARKER = b"\xff\xd9"
"""EOI of JPEG and JPEG-LS (T.81 B.1.1.3), EOC of JPEG 2000 (T.800 A.4.4)."""
END_BYTES = 16
"""The end marker is in the last END_BYTES of a frame; padding may follow it."""

Codec = tuple[Callable[[bytes], Raw], Callable[[bytes], FrameHeader]]
"""A decoder of frames, and a parser of their headers."""
_JPEG: Codec = (imagecodecs.jpeg_decode, parse_jpeg_header)
_JPEG_LS: Codec = (imagecodecs.jpegls_decode, parse_jpeg_header)
_JPEG_2000: Codec = (imagecodecs.jpeg2k_decode, parse_jpeg2000_header)

LOSSLESS: dict[str, Codec] = {
    "1.2.840.10008.1.2.4.57": _JPEG,  # JPEG lossless, process 14
    "1.2.840.10008.1.2.4.70": _JPEG,  # JPEG lossless, first-order prediction
    "1.2.840.10008.1.2.4.80": _JPEG_LS,  # JPEG-LS lossless
    "1.2.840.10008.1.2.4.90": _JPEG_2000,  # JPEG 2000 lossless
}
LOSSY: dict[str, Codec] = {
    "1.2.840.10008.1.2.4.51": _JPEG,  # JPEG extended, process 4
    "1.2.840.10008.1.2.4.53": _JPEG,  # JPEG spectral selection, process 8, retired
    "1.2.840.10008.1.2.4.55": _JPEG,  # JPEG full progression, process 12, retired
    "1.2.840.10008.1.2.4.81": _JPEG_LS,  # JPEG-LS near-lossless
    "1.2.840.10008.1.2.4.91": _JPEG_2000,  # JPEG 2000, may be lossless or not
}
"""Accepted with the flag `lossy`: errors reach some tens of HU. 8-bit JPEG is refused."""

_ENCODED = LOSSLESS | LOSSY


def is_lossy(syntax: str) -> bool:
    """Whether pixels of this transfer syntax may differ from what the scanner measured."""
    return syntax in LOSSY


def check_syntax(syntax: str) -> None:
    """Raise SeriesRefused(UNSUPPORTED_SYNTAX) for a transfer syntax without a decoder."""
    if syntax not in UNCOMPRESSED and syntax != RLE_LOSSLESS and syntax not in _ENCODED:
        raise SeriesRefused(Reason.UNSUPPORTED_SYNTAX, f"transfer syntax {describe_uid(syntax)}")


@dataclass(frozen=True, slots=True)
class PixelFormat:
    """How the stored values of one object are encoded (PS3.5 8.1)."""

    syntax: str
    """Transfer syntax UID."""
    shape: tuple[int, int]
    """Rows, columns."""
    bits_allocated: int
    bits_stored: int
    high_bit: int
    signed: bool
    """PixelRepresentation is 1."""

    @classmethod
    def from_dataset(
        cls,
        dataset: Dataset,
        shape: tuple[int, int],
        allocated_bits: Collection[int] = ALLOCATED_BITS,
    ) -> PixelFormat:
        """The format of a data set with frames of `shape`.

        Raises SeriesRefused, also for another BitsAllocated than `allocated_bits`.
        """
        values = DatasetValues(dataset)
        syntax = transfer_syntax(dataset)
        check_syntax(syntax)
        bits_allocated = values.integer("BitsAllocated", 16)
        if bits_allocated not in allocated_bits:
            raise SeriesRefused(Reason.UNREADABLE, f"BitsAllocated is {bits_allocated}")
        bits_stored = values.integer("BitsStored", bits_allocated)
        high_bit = values.integer("HighBit", bits_stored - 1)
        if not (1 <= bits_stored <= bits_allocated > high_bit >= bits_stored - 1):
            raise SeriesRefused(Reason.UNREADABLE, f"BitsStored {bits_stored}, HighBit {high_bit}")
        representation = values.integer("PixelRepresentation", 0)
        if representation not in (0, 1):
            raise SeriesRefused(Reason.UNREADABLE, f"PixelRepresentation is {representation}")
        return cls(syntax, shape, bits_allocated, bits_stored, high_bit, representation == 1)

    def decode(self, encoded: bytes | memoryview) -> Stored:
        """Stored values of one encoded frame with their sign (PS3.5 8.1.1), (rows, columns).

        Raises SeriesRefused.
        """
        if self.syntax in UNCOMPRESSED:
            byte_order = ">" if self.syntax == EXPLICIT_BIG_ENDIAN else "<"
            dtype = np.dtype(f"{byte_order}u{self.bits_allocated // 8}")
            raw: Raw = np.frombuffer(encoded, dtype).reshape(self.shape)
        else:
            raw = self._decompress(bytes(encoded))
            if self.syntax != RLE_LOSSLESS:
                return self.stored_values(raw, _ENCODED[self.syntax][1](bytes(encoded)).bits)
        return self.stored_values(raw)

    def stored_values(self, raw: Raw, precision: int = 64) -> Stored:
        """The BitsStored bits of `raw` that end at HighBit, with their sign extended if signed.

        An encoded frame of fewer bits (`precision`) has its sign at the highest of these.
        """
        width = raw.dtype.itemsize * 8
        bits = min(self.bits_stored, precision, width)
        high_bit = self.high_bit if bits == self.bits_stored and self.high_bit < width else bits - 1
        unsigned = raw.astype(f"u{width // 8}").view(f"u{width // 8}")
        shifted = np.left_shift(unsigned, width - 1 - high_bit)
        typed = shifted.view(f"i{width // 8}") if self.signed else shifted
        values: Stored = np.right_shift(typed, width - bits)
        return values

    @property
    def stored_range(self) -> tuple[int, int]:
        """Lowest and highest stored value."""
        n = 1 << self.bits_stored
        return (-(n // 2), n // 2 - 1) if self.signed else (0, n - 1)

    @property
    def frame_bytes(self) -> int:
        """Bytes of one frame, decoded."""
        return self.shape[0] * self.shape[1] * self.bits_allocated // 8

    def _decompress(self, frame: bytes) -> Raw:
        try:
            is_rle = self.syntax == RLE_LOSSLESS
            raw = self._decode_rle(frame) if is_rle else self._decode_codestream(frame)
        except SeriesRefused:
            raise
        except Exception as error:  # each codec raises its own errors for damaged bytes
            raise SeriesRefused(Reason.UNREADABLE, "pixels do not decode") from error
        if raw.shape != self.shape:
            raise SeriesRefused(
                Reason.UNREADABLE, f"pixels decode to {raw.shape}, the header says {self.shape}"
            )
        return raw

    def _decode_rle(self, frame: bytes) -> Raw:
        """Decode RLE (PS3.5 Annex G)."""
        check_rle_header(frame, self.bits_allocated // 8)
        dtype = np.dtype(f"<u{self.bits_allocated // 8}")
        raw: Raw = np.frombuffer(imagecodecs.dicomrle_decode(frame, dtype), dtype)
        if raw.size != self.shape[0] * self.shape[1]:
            raise ValueError(f"{raw.size} pixels")
        return raw.reshape(self.shape)

    def _decode_codestream(self, frame: bytes) -> Raw:
        decode, parse_frame_header = _ENCODED[self.syntax]
        header = parse_frame_header(frame)
        if (header.rows, header.columns, header.components) != (*self.shape, 1):
            raise SeriesRefused(
                Reason.UNREADABLE,
                f"an encoded frame of {header.rows} x {header.columns} x {header.components}, the "
                f"header says {self.shape[0]} x {self.shape[1]}",
            )
        if header.signed and not self.signed:
            raise SeriesRefused(Reason.UNREADABLE, "signed samples, the header says unsigned")
        if header.bits <= 8 and self.bits_stored > 8:
            raise SeriesRefused(
                Reason.UNSUPPORTED_SYNTAX, f"{header.bits} bits a pixel cannot be HU"
            )
        if END_MARKER not in frame[-END_BYTES:]:  # some codecs fill in missing pixels
            raise SeriesRefused(Reason.UNREADABLE, "an encoded frame without its end")
        return decode(frame)


class FrameReader:
    """The frames of one data set, decoded on request."""

    def __init__(
        self,
        dataset: Dataset,
        shape: tuple[int, int],
        frames: int = 1,
        allocated_bits: Collection[int] = ALLOCATED_BITS,
    ) -> None:
        """Split the pixel data into `frames` frames, without decoding them.

        `shape` is (rows, columns). Raises SeriesRefused if the header and the bytes disagree, and
        for another BitsAllocated than `allocated_bits`.
        """
        self._format = PixelFormat.from_dataset(dataset, shape, allocated_bits)
        value = _pixel_bytes(dataset)
        self._frames = self._split_frames(value, frames)
        self._has_excess_bytes = (
            self._format.syntax in UNCOMPRESSED
            and len(value) > self._format.frame_bytes * frames + MAX_EVEN_PADDING_BYTES
        )

    def __len__(self) -> int:
        """Number of frames."""
        return len(self._frames)

    @property
    def has_excess_bytes(self) -> bool:
        """Whether native pixel data has bytes after the last pixel, beside one of padding."""
        return self._has_excess_bytes

    def read(self, frame: int) -> Stored:
        """Stored values of one frame with their sign (PS3.5 8.1.1), (rows, columns)."""
        return self._format.decode(self._frames[frame])

    def _split_frames(self, value: bytes, frames: int) -> list[memoryview | bytes]:
        """The encoded bytes of each frame. Raises SeriesRefused."""
        if self._format.syntax in UNCOMPRESSED:
            size = self._format.frame_bytes
            expected = size * frames
            # Receivers ignore what follows the last pixel (PS3.5 8.1.1).
            if len(value) < expected:
                raise SeriesRefused(
                    Reason.UNREADABLE, f"pixel data has {len(value)} bytes, expected {expected}"
                )
            view = memoryview(value)
            return [view[frame * size : (frame + 1) * size] for frame in range(frames)]
        try:
            encoded: list[memoryview | bytes] = list(_join_fragments(value, frames))
        except Exception as error:  # pydicom's errors for broken fragments are many
            raise SeriesRefused(
                Reason.UNREADABLE, "the fragments of the pixel data do not parse"
            ) from error
        if len(encoded) != frames:
            raise SeriesRefused(
                Reason.UNREADABLE, f"{len(encoded)} encoded frames, the header says {frames}"
            )
        return encoded


def _pixel_bytes(dataset: Dataset) -> bytes:
    try:
        element = dataset.get_item("PixelData")
        claimed_length = element.length if isinstance(element, RawDataElement) else UNDEFINED_LENGTH
        value = dataset.get("PixelData")
    except Exception as error:  # converting a hostile value may raise anything
        raise SeriesRefused(Reason.UNREADABLE, "PixelData does not parse") from error
    if not isinstance(value, bytes) or not value:
        raise SeriesRefused(Reason.UNREADABLE, "rows and columns, but no pixel data to its end")
    if claimed_length not in (UNDEFINED_LENGTH, len(value)):
        raise SeriesRefused(
            Reason.UNREADABLE,
            f"{len(value)} bytes of pixel data where {claimed_length} are claimed",
        )
    return value


def _join_fragments(value: bytes, frames: int) -> Iterator[bytes]:
    """Join fragments to frames (PS3.5 A.4), by the offset table or, without one, by end markers."""
    yield from generate_frames(value, number_of_frames=frames)
