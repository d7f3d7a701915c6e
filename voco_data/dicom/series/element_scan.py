"""Positions of the elements that we read in a plain DICOM file, from one scan of its bytes.

The scan accepts a preamble, little endian, ascending tags, known value representations and lengths
that fit (PS3.5 section 7). It interprets no value but the transfer syntax. For any other file the
result is IRREGULAR, and pydicom has to read it.
"""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt

from voco_data.dicom.binary_format import (
    IMPLICIT_LITTLE_ENDIAN,
    ITEM,
    ITEM_DELIMITER,
    ITEM_GROUP,
    LENGTH_FIELD_BYTES,
    META_GROUP,
    META_START,
    PREAMBLE_BYTES,
    PREFIX,
    SEQUENCE_DELIMITER,
    UNDEFINED_LENGTH,
)

TRANSFER_SYNTAX = 0x00020010
SPECIFIC_CHARACTER_SET = 0x00080005
ACQUISITION_DATETIME = 0x0008002A
ACQUISITION_TIME = 0x00080032
CONTENT_TIME = 0x00080033
TRIGGER_TIME = 0x00181060
INSTANCE_NUMBER = 0x00200013
IMAGE_POSITION = 0x00200032
PIXEL_DATA = 0x7FE00010

READ_ELEMENTS = {
    TRANSFER_SYNTAX: "TransferSyntaxUID",
    SPECIFIC_CHARACTER_SET: "SpecificCharacterSet",
    0x00080008: "ImageType",
    0x00080016: "SOPClassUID",
    0x00080022: "AcquisitionDate",
    ACQUISITION_DATETIME: "AcquisitionDateTime",
    ACQUISITION_TIME: "AcquisitionTime",
    CONTENT_TIME: "ContentTime",
    0x00080060: "Modality",
    0x0008103E: "SeriesDescription",
    0x00089007: "FrameType",
    0x00100020: "PatientID",
    0x00180050: "SliceThickness",
    0x00180060: "KVP",
    0x00180086: "EchoNumbers",
    TRIGGER_TIME: "TriggerTime",
    0x00181210: "ConvolutionKernel",
    0x0020000D: "StudyInstanceUID",
    0x0020000E: "SeriesInstanceUID",
    0x00200011: "SeriesNumber",
    0x00200012: "AcquisitionNumber",
    INSTANCE_NUMBER: "InstanceNumber",
    IMAGE_POSITION: "ImagePositionPatient",
    0x00200037: "ImageOrientationPatient",
    0x00200100: "TemporalPositionIdentifier",
    0x00209241: "NominalPercentageOfCardiacPhase",
    0x00280002: "SamplesPerPixel",
    0x00280004: "PhotometricInterpretation",
    0x00280008: "NumberOfFrames",
    0x00280010: "Rows",
    0x00280011: "Columns",
    0x00280030: "PixelSpacing",
    0x00280100: "BitsAllocated",
    0x00280101: "BitsStored",
    0x00280102: "HighBit",
    0x00280103: "PixelRepresentation",
    0x00280120: "PixelPaddingValue",
    0x00280121: "PixelPaddingRangeLimit",
    0x00280301: "BurnedInAnnotation",
    0x00281052: "RescaleIntercept",
    0x00281053: "RescaleSlope",
    0x00281054: "RescaleType",
    0x00282110: "LossyImageCompression",
}
"""Tags, ascending, and keywords of the elements whose values header.py, stack_key.py,
pixels/decode.py and pixels/modality.py read."""

DECLINED_ELEMENTS = {
    0x00283000: "ModalityLUTSequence",
    0x52009229: "SharedFunctionalGroupsSequence",
    0x52009230: "PerFrameFunctionalGroupsSequence",
    0x7FE00001: "ExtendedOffsetTable",
    0x7FE00002: "ExtendedOffsetTableLengths",
    0x7FE00008: "FloatPixelData",
    0x7FE00009: "DoubleFloatPixelData",
}
"""Tags, ascending, and keywords. A file with one of these is IRREGULAR."""

IRREGULAR, TRUNCATED, COMPLETE = 0, 1, 2
"""Results of a scan: the file is not plain, the bytes end before the pixels, or success."""

ELEMENT_START, VALUE_START, VALUE_END = 0, 1, 2
"""Columns of ElementScanner.elements: byte offsets in the file."""
ELEMENT_COUNT, KEY_LENGTH, PIXELS_START, PIXELS_LENGTH, POSITION_ROW, NUMBER_ROW = range(6)
ACQUISITION_TIME_ROW, CONTENT_TIME_ROW, ACQUISITION_DATETIME_ROW, TRIGGER_TIME_ROW = range(6, 10)
"""Indices into ElementScanner.summary.

PIXELS_START and PIXELS_LENGTH give the value of PixelData. The rows are those of VARYING_ELEMENTS
in `elements`, or ABSENT.
"""
VARYING_ELEMENTS = {
    IMAGE_POSITION: POSITION_ROW,
    INSTANCE_NUMBER: NUMBER_ROW,
    ACQUISITION_TIME: ACQUISITION_TIME_ROW,
    CONTENT_TIME: CONTENT_TIME_ROW,
    ACQUISITION_DATETIME: ACQUISITION_DATETIME_ROW,
    TRIGGER_TIME: TRIGGER_TIME_ROW,
}
"""Tags of the values that vary from slice to slice, and their indices into the summary."""
ABSENT = -1

MAX_ELEMENTS = 10_000
MAX_VALUE_BYTES = 1024
"""Largest accepted value of READ_ELEMENTS; real ones are shorter."""
MAX_DEPTH = 8
"""Largest number of nested sequences."""
MAX_KEY_BYTES = 16_384

Bytes = npt.NDArray[np.uint8]


class ElementScanner:
    """Scans files one after the other; each scan overwrites the results of the last."""

    __slots__ = ("_key", "_key_view", "elements", "summary")

    def __init__(self) -> None:
        self.elements = np.zeros((len(READ_ELEMENTS), 3), np.int64)
        """(n, 3) int64: offsets of each of READ_ELEMENTS that the file has, in its order."""
        self.summary = np.zeros(10, np.int64)
        """(10,) int64: results of a COMPLETE scan, by the indices above."""
        self._key = np.empty(MAX_KEY_BYTES, np.uint8)
        self._key_view = self._key.data

    def scan(self, data: Bytes, size: int) -> int:
        """Scan data[:size] up to the pixel data: COMPLETE, TRUNCATED or IRREGULAR."""
        return int(_scan(data, size, self.elements, self._key, self.summary))

    @property
    def key(self) -> bytes:
        """The bytes of READ_ELEMENTS, without the values of VARYING_ELEMENTS.

        Files with equal keys differ only in those, as far as their READ_ELEMENTS go.
        """
        return bytes(self._key_view[: self.summary[KEY_LENGTH]])


# Constants of the compiled code. numba compiles them into its cache, which depends on this file
# alone: after a change in binary_format.py, edit this file too. A VR is one little-endian number,
# as `_u16` reads its two bytes.


def _vr_code(vr: bytes) -> int:
    return int.from_bytes(vr, "little")


_SQ, _OB, _OW = _vr_code(b"SQ"), _vr_code(b"OB"), _vr_code(b"OW")
_LENGTH_FIELD_BYTES = np.zeros(1 << 16, np.uint8)
"""LENGTH_FIELD_BYTES by code of the VR; 0 for an unknown VR."""
for _vr, _size in LENGTH_FIELD_BYTES.items():
    _LENGTH_FIELD_BYTES[_vr_code(_vr)] = _size

_READ_TAGS = np.array(list(READ_ELEMENTS), np.int64)
_DECLINED_TAGS = np.array(list(DECLINED_ELEMENTS), np.int64)
_VARYING_ROWS = np.array([VARYING_ELEMENTS.get(tag, -1) for tag in READ_ELEMENTS], np.int64)
_FIRST_DATASET_GROUP = 0x0008
"""Lower groups are command and meta groups, and that of a DICOMDIR."""
_D, _I, _C, _M = PREFIX
_NUL, _SPACE, _DOT, _1, _4, _5 = b"\0 .145"
_UPPER_A, _UPPER_Z = b"AZ"
_UID_ROOT = np.frombuffer(IMPLICIT_LITTLE_ENDIAN.encode(), np.uint8)

_EXPLICIT, _IMPLICIT, _UNKNOWN = 0, 1, -1
"""Encodings, by the transfer syntax."""
_FAILED_IRREGULAR, _FAILED_TRUNCATED = -1, -2
"""Results of `_value_length` and `_sequence_end` without a length or an offset."""


@numba.njit(nogil=True, cache=True)
def _u16(data, at):  # type: ignore[no-untyped-def]  # pragma: no cover
    return np.int64(data[at]) | np.int64(data[at + 1]) << 8


@numba.njit(nogil=True, cache=True)
def _u32(data, at):  # type: ignore[no-untyped-def]  # pragma: no cover
    return _u16(data, at) | _u16(data, at + 2) << 16


@numba.njit(nogil=True, cache=True)
def _tag(data, at):  # type: ignore[no-untyped-def]  # pragma: no cover
    return _u16(data, at) << 16 | _u16(data, at + 2)


@numba.njit(nogil=True, cache=True)
def _value_length(data, at, size):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Length and offset of the value of the element at `at`, in explicit VR (PS3.5 7.1.2).

    The length is _FAILED_IRREGULAR for an unknown VR, _FAILED_TRUNCATED if its field is cut off.
    """
    length_bytes = _LENGTH_FIELD_BYTES[_u16(data, at + 4)]
    if length_bytes == 2:
        return _u16(data, at + 6), at + 8
    if length_bytes == 0:
        return np.int64(_FAILED_IRREGULAR), at
    if at + 12 > size:
        return np.int64(_FAILED_TRUNCATED), at
    return _u32(data, at + 8), at + 12


@numba.njit(nogil=True, cache=True)
def _is_capital(byte):  # type: ignore[no-untyped-def]  # pragma: no cover
    return _UPPER_A <= byte <= _UPPER_Z


@numba.njit(nogil=True, cache=True)
def _sequence_end(data, at, size):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Offset after a sequence of undefined length in explicit VR (PS3.5 7.5).

    _FAILED_IRREGULAR or _FAILED_TRUNCATED if it does not end. All elements inside are checked,
    because pydicom parses them.
    """
    item_ends = np.zeros(MAX_DEPTH, np.int64)  # of each open item; 0 if it ends at a delimiter
    depth = 0  # 2 * n: between items of sequence n; 2 * n + 1: inside an item
    for _ in range(MAX_ELEMENTS):
        if depth % 2 == 1 and item_ends[depth // 2] == at:
            depth -= 1
            continue
        if at + 8 > size:
            return _FAILED_TRUNCATED
        tag = _tag(data, at)
        if depth % 2 == 0:  # an item, or the end of the sequence
            length = _u32(data, at + 4)
            at += 8
            if tag == SEQUENCE_DELIMITER and length == 0:
                if depth == 0:
                    return at
                depth -= 1
            elif tag == ITEM:
                if (
                    length != UNDEFINED_LENGTH
                    and depth > 0
                    and 0 < item_ends[depth // 2 - 1] < at + length
                ):
                    return _FAILED_IRREGULAR
                depth += 1
                item_ends[depth // 2] = 0 if length == UNDEFINED_LENGTH else at + length
            else:
                return _FAILED_IRREGULAR
            continue
        item_end = item_ends[depth // 2]
        group = tag >> 16
        if group == ITEM_GROUP:
            if tag != ITEM_DELIMITER or item_end != 0 or _u32(data, at + 4) != 0:
                return _FAILED_IRREGULAR
            at += 8
            depth -= 1
            continue
        if tag == SPECIFIC_CHARACTER_SET or group < _FIRST_DATASET_GROUP:
            return _FAILED_IRREGULAR
        vr = _u16(data, at + 4)
        length, at = _value_length(data, at, size)
        if length < 0:
            return length
        if length == UNDEFINED_LENGTH:
            if vr != _SQ or depth // 2 + 1 >= MAX_DEPTH:
                return _FAILED_IRREGULAR
            depth += 1
            continue
        at += length
        if item_end != 0 and at > item_end:
            return _FAILED_IRREGULAR
    return _FAILED_IRREGULAR


@numba.njit(nogil=True, cache=True)
def _encoding(data, start, end):  # type: ignore[no-untyped-def]  # pragma: no cover
    """_IMPLICIT or _EXPLICIT VR little endian for the UID data[start:end], else _UNKNOWN.

    Of the standard's UIDs (PS3.5 Annex A), 1.2.840.10008.1.2 is implicit; 1.2.840.10008.1.2.1,
    .1.2.4.xx and .1.2.5 are explicit.
    """
    while end > start and (data[end - 1] == _NUL or data[end - 1] == _SPACE):
        end -= 1
    root = _UID_ROOT.size
    length = end - start
    if length < root:
        return _UNKNOWN
    for i in range(root):
        if data[start + i] != _UID_ROOT[i]:
            return _UNKNOWN
    if length == root:
        return _IMPLICIT
    rest = start + root
    if length == root + 2 and data[rest] == _DOT:
        return _EXPLICIT if data[rest + 1] == _1 or data[rest + 1] == _5 else _UNKNOWN
    if length == root + 5 and data[rest] == _DOT and data[rest + 1] == _4:
        return _EXPLICIT if data[rest + 2] == _DOT else _UNKNOWN
    return _UNKNOWN


@numba.njit(nogil=True, cache=True)
def _scan(data, size, elements, key, summary):  # type: ignore[no-untyped-def]  # pragma: no cover
    if size < META_START:
        return TRUNCATED
    if (
        data[PREAMBLE_BYTES] != _D
        or data[PREAMBLE_BYTES + 1] != _I
        or data[PREAMBLE_BYTES + 2] != _C
        or data[PREAMBLE_BYTES + 3] != _M
    ):
        return IRREGULAR
    at = np.int64(META_START)
    last_tag = np.int64(-1)
    encoding = np.int64(_UNKNOWN)  # until the transfer syntax is read
    count, key_length = 0, 0
    summary[POSITION_ROW:] = ABSENT
    next_read, next_declined = 0, 0  # indices of the next tags that the file may have
    for _ in range(MAX_ELEMENTS):
        start = at
        if at + 8 > size:
            return TRUNCATED
        tag = _tag(data, at)
        group = tag >> 16
        if tag <= last_tag or group == ITEM_GROUP:
            return IRREGULAR
        in_meta = group == META_GROUP
        if not in_meta and (encoding == _UNKNOWN or group < _FIRST_DATASET_GROUP):
            return IRREGULAR
        vr = _u16(data, at + 4)
        is_sequence = False
        if encoding == _IMPLICIT and not in_meta:
            after_meta = last_tag >> 16 == META_GROUP
            if after_meta and _is_capital(data[at + 4]) and _is_capital(data[at + 5]):
                return IRREGULAR  # the data set is explicit, against its transfer syntax
            length = _u32(data, at + 4)
            at += 8
        else:
            length, at = _value_length(data, at, size)
            if length < 0:
                return TRUNCATED if length == _FAILED_TRUNCATED else IRREGULAR
            is_sequence = vr == _SQ
        last_tag = tag
        if tag == PIXEL_DATA:
            if not (encoding == _IMPLICIT or vr in (_OB, _OW)):
                return IRREGULAR
            summary[ELEMENT_COUNT], summary[KEY_LENGTH] = count, key_length
            summary[PIXELS_START], summary[PIXELS_LENGTH] = at, length
            return COMPLETE
        while next_declined < _DECLINED_TAGS.size and _DECLINED_TAGS[next_declined] < tag:
            next_declined += 1
        if next_declined < _DECLINED_TAGS.size and _DECLINED_TAGS[next_declined] == tag:
            return IRREGULAR
        while next_read < _READ_TAGS.size and _READ_TAGS[next_read] < tag:
            next_read += 1
        is_read = next_read < _READ_TAGS.size and _READ_TAGS[next_read] == tag
        if length == UNDEFINED_LENGTH:
            if is_read or in_meta or encoding == _IMPLICIT or not is_sequence:
                return IRREGULAR
            at = _sequence_end(data, at, size)
            if at < 0:
                return TRUNCATED if at == _FAILED_TRUNCATED else IRREGULAR
            continue
        end = at + length
        if is_read:
            if length > MAX_VALUE_BYTES or is_sequence:
                return IRREGULAR
            if end > size:
                return TRUNCATED
            if tag == TRANSFER_SYNTAX:
                encoding = _encoding(data, at, end)
                if encoding == _UNKNOWN:
                    return IRREGULAR
            varies_row = _VARYING_ROWS[next_read]
            varies = varies_row >= 0
            # Of an element that varies, the key has tag and VR, but neither length nor value.
            key_end = start + (4 if encoding == _IMPLICIT else 6) if varies else end
            if key_length + key_end - start > key.size:
                return IRREGULAR
            for i in range(start, key_end):
                key[key_length] = data[i]
                key_length += 1
            if varies:
                summary[varies_row] = count
            elements[count, ELEMENT_START] = start
            elements[count, VALUE_START] = at
            elements[count, VALUE_END] = end
            count += 1
        if end > size:
            return TRUNCATED
        at = end
    return IRREGULAR
