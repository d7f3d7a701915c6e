"""The binary form of DICOM files and data elements: constants that all byte-level readers share.

Files: PS3.10 section 7. Data elements and sequences: PS3.5 section 7. Transfer syntaxes: PS3.5
Annex A.

The compiled kernels of `element_scan` and `hu_kernels` hold these values, and numba caches a kernel
by its own file alone: after a change here, change those files too.
"""

from __future__ import annotations

PREAMBLE_BYTES = 128
PREFIX = b"DICM"
META_START = PREAMBLE_BYTES + len(PREFIX)
"""Offset of the first element of a file with a preamble (PS3.10 7.1)."""
META_GROUP = 0x0002
"""Group of the file meta information, always explicit VR little endian."""

UNDEFINED_LENGTH = 0xFFFFFFFF
"""Length field of a value that a delimiter ends (PS3.5 7.5, A.4)."""
ITEM = 0xFFFEE000
ITEM_DELIMITER = 0xFFFEE00D
SEQUENCE_DELIMITER = 0xFFFEE0DD
ITEM_GROUP = 0xFFFE
"""Group of these three. Their elements have no value representation (PS3.5 7.5)."""

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
"""Size of the length field of each value representation, in explicit VR (PS3.5 7.1.2).

A field of 2 bytes follows the VR at once; one of 4 bytes follows two reserved bytes.
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
"""Syntaxes whose pixels stand in the data set as they are, once it is inflated."""
