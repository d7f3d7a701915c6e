"""The binary form of DICOM files and data elements, for all readers of bytes.

Files: PS3.10 section 7. Data elements and sequences: PS3.5 section 7. Transfer syntaxes: PS3.5
Annex A.

numba compiles these constants into the kernels of `series/element_scan.py`, and its cache depends
on that file alone. After a change here, edit that file too, or delete the cache.
"""

from __future__ import annotations

PREAMBLE_BYTES = 128
"""A file begins with so many bytes of any value, and PREFIX (PS3.10 7.1)."""
PREFIX = b"DICM"
META_START = PREAMBLE_BYTES + len(PREFIX)
"""Offset of the first element of a file with preamble and prefix."""
META_GROUP = 0x0002
"""Group of the file meta information, which is always explicit VR little endian."""

UNDEFINED_LENGTH = 0xFFFFFFFF
"""Length field of a value that ends at a delimiter (PS3.5 7.5, A.4)."""
FIRST_GROUPS = (b"\x02\x00", b"\x08\x00", b"\x00\x02", b"\x00\x08")
"""First bytes of a file without a preamble: group 0002 or 0008, in either byte order."""
ITEM = 0xFFFEE000
ITEM_DELIMITER = 0xFFFEE00D
SEQUENCE_DELIMITER = 0xFFFEE0DD
ITEM_GROUP = 0xFFFE
"""Group of ITEM and the delimiters. Their elements have no value representation (PS3.5 7.5)."""

LENGTH_FIELD_BYTES: dict[bytes, int] = {
    b"AE": 2,
    b"AS": 2,
    b"AT": 2,
    b"CS": 2,
    b"DA": 2,
    b"DS": 2,
    b"DT": 2,
    b"FD": 2,
    b"FL": 2,
    b"IS": 2,
    b"LO": 2,
    b"LT": 2,
    b"OB": 4,
    b"OD": 4,
    b"OF": 4,
    b"OL": 4,
    b"OV": 4,
    b"OW": 4,
    b"PN": 2,
    b"SH": 2,
    b"SL": 2,
    b"SQ": 4,
    b"SS": 2,
    b"ST": 2,
    b"SV": 4,
    b"TM": 2,
    b"UC": 4,
    b"UI": 2,
    b"UL": 2,
    b"UN": 4,
    b"UR": 4,
    b"US": 2,
    b"UT": 4,
    b"UV": 4,
}
"""Bytes of the length field by value representation, in explicit VR (PS3.5 7.1.2).

A field of 2 bytes follows the VR; two reserved bytes precede a field of 4 bytes.
"""

IMPLICIT_LITTLE_ENDIAN = "1.2.840.10008.1.2"
EXPLICIT_LITTLE_ENDIAN = "1.2.840.10008.1.2.1"
DEFLATED_LITTLE_ENDIAN = "1.2.840.10008.1.2.1.99"
"""Explicit VR little endian, the whole data set deflated (PS3.5 A.5)."""
EXPLICIT_BIG_ENDIAN = "1.2.840.10008.1.2.2"
"""Retired."""
RLE_LOSSLESS = "1.2.840.10008.1.2.5"

UNCOMPRESSED = frozenset(
    {
        IMPLICIT_LITTLE_ENDIAN,
        EXPLICIT_LITTLE_ENDIAN,
        DEFLATED_LITTLE_ENDIAN,
        EXPLICIT_BIG_ENDIAN,
    }
)
"""Transfer syntaxes with native pixel data (PS3.5 8.2); one deflates the data set."""


def has_prefix(start: bytes) -> bool:
    """Whether a file with these first bytes has a preamble and the prefix DICM (PS3.10 7.1)."""
    return start[PREAMBLE_BYTES:META_START] == PREFIX


def may_be_dicom(start: bytes) -> bool:
    """Whether a file with these first bytes has the prefix, or begins with an element of DICOM."""
    return has_prefix(start) or start[:2] in FIRST_GROUPS
