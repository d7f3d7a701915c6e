"""Where the elements lie that we take from a plain DICOM file: a walk over its bytes (PS3.5 7.1).

The walk follows what is plainly right: a preamble, little endian, ascending tags, known value
representations, lengths that fit. It reads no value but the transfer syntax. At anything else it
stops with ODD, and pydicom reads the file.
"""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt

PATIENT_POSITION, INSTANCE_NUMBER = 0x00200032, 0x00200013
"""What is each slice's own."""
PIXEL_DATA = 0x7FE00010

TAKEN = np.array(
    [
        0x00020010,  # TransferSyntaxUID
        0x00080005,  # SpecificCharacterSet
        0x00080008,  # ImageType
        0x00080016,  # SOPClassUID
        0x00080060,  # Modality
        0x00089007,  # FrameType
        0x00100020,  # PatientID
        0x00180086,  # EchoNumbers
        0x00181210,  # ConvolutionKernel
        0x0020000D,  # StudyInstanceUID
        0x0020000E,  # SeriesInstanceUID
        0x00200012,  # AcquisitionNumber
        INSTANCE_NUMBER,
        PATIENT_POSITION,
        0x00200037,  # ImageOrientationPatient
        0x00280002,  # SamplesPerPixel
        0x00280004,  # PhotometricInterpretation
        0x00280008,  # NumberOfFrames
        0x00280010,  # Rows
        0x00280011,  # Columns
        0x00280030,  # PixelSpacing
        0x00280100,  # BitsAllocated
        0x00280101,  # BitsStored
        0x00280102,  # HighBit
        0x00280103,  # PixelRepresentation
        0x00280120,  # PixelPaddingValue
        0x00280121,  # PixelPaddingRangeLimit
        0x00280301,  # BurnedInAnnotation
        0x00281052,  # RescaleIntercept
        0x00281053,  # RescaleSlope
        0x00281054,  # RescaleType
        0x00282110,  # LossyImageCompression
    ],
    np.int64,
)
"""Ascending. Whatever header.py, modality.py, pixels.py and stack.py ask for."""

LEFT_ALONE = np.array(
    [
        0x00283000,  # ModalityLUTSequence
        0x52009229,  # SharedFunctionalGroupsSequence
        0x52009230,  # PerFrameFunctionalGroupsSequence
        0x7FE00001,  # ExtendedOffsetTable
        0x7FE00002,  # ExtendedOffsetTableLengths
        0x7FE00008,  # FloatPixelData
        0x7FE00009,  # DoubleFloatPixelData
    ],
    np.int64,
)
"""Files with one of these are pydicom's."""

ODD, SHORT, WALKED = 0, 1, 2
"""What a walk says: not for us, the bytes do not reach to the pixels, or done."""
UNDEFINED = 0xFFFFFFFF
MOST_ELEMENTS = 10_000
LONGEST_TAKEN = 1024
"""Bytes of a value that we take; no real one is longer."""
DEEPEST = 8
"""Sequences inside sequences."""
KEY_BYTES = 16_384

Bytes = npt.NDArray[np.uint8]


class ElementScanner:
    """A walker with the arrays that it writes to, used again for every file."""

    __slots__ = ("_key", "_key_view", "fields", "places")

    def __init__(self) -> None:
        self.places = np.zeros((len(TAKEN), 3), np.int64)
        """(n, 3) of each element that was found: its start, its value's start, its end."""
        self.fields = np.zeros(8, np.int64)
        """Count of places, length of the key, start and length of the pixel value, indices of
        position and instance number in `places` (-1 without), start of the pixels' element."""
        self._key = np.empty(KEY_BYTES, np.uint8)
        self._key_view = self._key.data

    def go(self, data: Bytes, size: int) -> int:
        """ElementScanner data[:size]: WALKED up to the pixel data, else SHORT or ODD."""
        return int(_walk(data, size, self.places, self._key, self.fields))

    @property
    def key(self) -> bytes:
        """All taken elements as they stand, but for the values that are each slice's own."""
        return bytes(self._key_view[: self.fields[1]])


@numba.njit(nogil=True, cache=True)
def _u16(data, at):  # type: ignore[no-untyped-def]  # pragma: no cover
    return np.int64(data[at]) | np.int64(data[at + 1]) << 8


@numba.njit(nogil=True, cache=True)
def _u32(data, at):  # type: ignore[no-untyped-def]  # pragma: no cover
    return _u16(data, at) | _u16(data, at + 2) << 16


@numba.njit(nogil=True, cache=True)
def _vr_bytes(first, second):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Bytes of the length that follows a value representation (PS3.5 7.1.2); 0 for unknown ones."""
    if first == 79:  # O: OB OD OF OL OV OW
        return 4 if second in (66, 68, 70, 76, 86, 87) else 0
    if first == 85:  # U: UC UN UR UT UV are long, UI UL US short
        if second in (67, 78, 82, 84, 86):
            return 4
        return 2 if second in (73, 76, 83) else 0
    if first == 83:  # S: SQ SV are long, SH SL SS ST short
        if second in (81, 86):
            return 4
        return 2 if second in (72, 76, 83, 84) else 0
    if first == 65:  # A: AE AS AT
        return 2 if second in (69, 83, 84) else 0
    if first == 68:  # D: DA DS DT
        return 2 if second in (65, 83, 84) else 0
    if first == 76:  # L: LO LT
        return 2 if second in (79, 84) else 0
    if first == 70:  # F: FD FL
        return 2 if second in (68, 76) else 0
    if (first == 67 or first == 73) and second == 83:  # CS IS
        return 2
    return 2 if (first == 80 and second == 78) or (first == 84 and second == 77) else 0  # PN TM


@numba.njit(nogil=True, cache=True)
def _after_sequence(data, at, size):  # type: ignore[no-untyped-def]  # pragma: no cover
    """The end of a sequence of undefined length, explicit VR (PS3.5 7.5); -1 odd, -2 too short.

    Every element inside is looked at, since pydicom parses them.
    """
    ends = np.zeros(DEEPEST, np.int64)  # of each open item; 0 where a delimiter ends it
    depth = 0  # 2 * n: between items of sequence n; 2 * n + 1: inside an item
    for _ in range(MOST_ELEMENTS):
        if depth % 2 == 1 and ends[depth // 2] == at:
            depth -= 1
            continue
        if at + 8 > size:
            return -2
        group, element = _u16(data, at), _u16(data, at + 2)
        if depth % 2 == 0:  # an item, or the end of the sequence
            length = _u32(data, at + 4)
            at += 8
            if group != 0xFFFE:
                return -1
            if element == 0xE0DD and length == 0:
                if depth == 0:
                    return at
                depth -= 1
            elif element == 0xE000:
                if length != UNDEFINED and depth > 0 and 0 < ends[depth // 2 - 1] < at + length:
                    return -1
                depth += 1
                ends[depth // 2] = 0 if length == UNDEFINED else at + length
            else:
                return -1
            continue
        end = ends[depth // 2]
        if group == 0xFFFE:
            if element != 0xE00D or end != 0 or _u32(data, at + 4) != 0:
                return -1
            at += 8
            depth -= 1
            continue
        if (group == 0x0008 and element == 0x0005) or group < 0x0008:
            return -1
        kind = _vr_bytes(data[at + 4], data[at + 5])
        if kind == 0:
            return -1
        if kind == 2:
            length = _u16(data, at + 6)
            at += 8
        else:
            if at + 12 > size:
                return -2
            length = _u32(data, at + 8)
            is_sequence = data[at + 4] == 83 and data[at + 5] == 81
            at += 12
            if length == UNDEFINED:
                if not is_sequence or depth // 2 + 1 >= DEEPEST:
                    return -1
                depth += 1
                continue
        at += length
        if end != 0 and at > end:
            return -1
    return -1


@numba.njit(nogil=True, cache=True)
def _is_implicit(data, start, end):  # type: ignore[no-untyped-def]  # pragma: no cover
    """1 for implicit VR little endian, 0 for syntaxes in explicit VR little endian, -1 for others.

    Of the standard's UIDs, 1.2.840.10008.1.2 is implicit, 1.2.1 and 1.2.4.x, 1.2.5 are explicit.
    """
    while end > start and (data[end - 1] == 0 or data[end - 1] == 32):
        end -= 1
    root = (49, 46, 50, 46, 56, 52, 48, 46, 49, 48, 48, 48, 56, 46, 49, 46, 50)
    if end - start < 17:
        return -1
    for i in range(17):
        if data[start + i] != root[i]:
            return -1
    if end - start == 17:
        return 1
    if end - start == 19 and data[start + 17] == 46:  # .1 or .5
        return 0 if data[start + 18] == 49 or data[start + 18] == 53 else -1
    if end - start == 22 and data[start + 17] == 46 and data[start + 18] == 52:  # .4.xx
        return 0 if data[start + 19] == 46 else -1
    return -1


@numba.njit(nogil=True, cache=True)
def _walk(data, size, places, key, fields):  # type: ignore[no-untyped-def]  # pragma: no cover
    if size < 132:
        return SHORT
    if data[128] != 68 or data[129] != 73 or data[130] != 67 or data[131] != 77:
        return ODD
    at = np.int64(132)
    last = np.int64(-1)
    implicit = np.int64(-1)  # until the transfer syntax is known
    count, used = 0, 0
    fields[4] = fields[5] = -1
    wanted, shunned = 0, 0
    for _ in range(MOST_ELEMENTS):
        start = at
        if at + 8 > size:
            return SHORT
        group = _u16(data, at)
        tag = group << 16 | _u16(data, at + 2)
        if tag <= last or group == 0xFFFE:
            return ODD
        in_meta = group == 0x0002
        if not in_meta and (implicit < 0 or group < 0x0008):
            return ODD
        undefined = False
        is_sequence = False
        first, second = data[at + 4], data[at + 5]
        if implicit == 1 and not in_meta:
            if last >> 16 == 0x0002 and 64 < first < 91 and 64 < second < 91:
                return ODD  # it is explicit after all
            length = _u32(data, at + 4)
            at += 8
        else:
            kind = _vr_bytes(first, second)
            if kind == 0:
                return ODD
            if kind == 2:
                length = _u16(data, at + 6)
                at += 8
            else:
                if at + 12 > size:
                    return SHORT
                length = _u32(data, at + 8)
                is_sequence = first == 83 and second == 81
                at += 12
        undefined = length == UNDEFINED
        last = tag
        if tag == PIXEL_DATA:
            if not (implicit == 1 or (first == 79 and (second == 66 or second == 87))):
                return ODD
            fields[0], fields[1], fields[2], fields[3] = count, used, at, length
            fields[6] = start
            return WALKED
        while shunned < LEFT_ALONE.size and LEFT_ALONE[shunned] < tag:
            shunned += 1
        if shunned < LEFT_ALONE.size and LEFT_ALONE[shunned] == tag:
            return ODD
        while wanted < TAKEN.size and TAKEN[wanted] < tag:
            wanted += 1
        taken = wanted < TAKEN.size and TAKEN[wanted] == tag
        if undefined:
            if taken or in_meta or implicit == 1 or not is_sequence:
                return ODD
            at = _after_sequence(data, at, size)
            if at < 0:
                return SHORT if at == -2 else ODD
            continue
        end = at + length
        if taken:
            if length > LONGEST_TAKEN or is_sequence:
                return ODD
            if end > size:
                return SHORT
            if tag == 0x00020010:
                implicit = _is_implicit(data, at, end)
                if implicit < 0:
                    return ODD
            own = tag in (PATIENT_POSITION, INSTANCE_NUMBER)
            # Of what is each slice's own, tag and value representation: no value, no length.
            upto = start + (4 if implicit == 1 else 6) if own else end
            if used + upto - start > key.size:
                return ODD
            for i in range(start, upto):
                key[used] = data[i]
                used += 1
            if own:
                fields[4 if tag == PATIENT_POSITION else 5] = count
            places[count, 0], places[count, 1], places[count, 2] = start, at, end
            count += 1
        if end > size:
            return SHORT
        at = end
    return ODD
