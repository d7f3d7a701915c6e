"""Scanned headers against pydicom's: the same header, or None."""

from __future__ import annotations

import struct
from pathlib import Path

import pydicom
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from pydicom.uid import RLELossless

from tests.support.ct_files import body, write_slices
from tests.support.headers import write_header
from tests.support.mutations import mutate
from voco_data.dicom.header import Header, parse_header, read_dataset
from voco_data.dicom.series.header_scan import HeaderScanner
from voco_data.dicom.stack_key import SliceTimes, StackKey, make_slice_times, make_stack_key
from voco_data.errors import SeriesRefused

EXPLICIT, IMPLICIT = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2"
LONG = {"OB", "OW", "SQ", "UN", "UT"}

Element = tuple[int, str, bytes]

PLAIN: list[Element] = [
    (0x00080005, "CS", b"ISO_IR 100"),
    (0x00080008, "CS", b"ORIGINAL\\PRIMARY\\AXIAL "),
    (0x00080016, "UI", b"1.2.840.10008.5.1.4.1.1.2\0"),
    (0x0008002A, "DT", b"20240229120000.25 "),
    (0x00080032, "TM", b"120000.25 "),
    (0x00080033, "TM", b"120001"),
    (0x00080060, "CS", b"CT"),
    (0x00100010, "PN", b"Doe^Jane"),
    (0x00100020, "LO", b"patient "),
    (0x00181060, "DS", b"612.5 "),
    (0x00181210, "SH", b"B30f"),
    (0x0020000D, "UI", b"1.2.3\0"),
    (0x0020000E, "UI", b"1.2.3.4\0"),
    (0x00200012, "IS", b"1 "),
    (0x00200013, "IS", b"17"),
    (0x00200032, "DS", b"-120.5\\-99.25\\ 1e2"),
    (0x00200037, "DS", b"1\\0\\0\\0\\1\\0"),
    (0x00280002, "US", struct.pack("<H", 1)),
    (0x00280004, "CS", b"MONOCHROME2 "),
    (0x00280010, "US", struct.pack("<H", 4)),
    (0x00280011, "US", struct.pack("<H", 4)),
    (0x00280030, "DS", b"0.75\\0.75 "),
    (0x00280100, "US", struct.pack("<H", 16)),
    (0x00280101, "US", struct.pack("<H", 16)),
    (0x00280102, "US", struct.pack("<H", 15)),
    (0x00280103, "US", struct.pack("<H", 0)),
    (0x00281052, "DS", b"-1024 "),
    (0x00281053, "DS", b"1 "),
]


def encode(element: Element, *, implicit: bool = False) -> bytes:
    """One element as PS3.5 7.1 writes it."""
    tag, vr, value = element
    head = struct.pack("<HH", tag >> 16, tag & 0xFFFF)
    if implicit:
        return head + struct.pack("<I", len(value)) + value
    if vr in LONG:
        return head + vr.encode() + b"\0\0" + struct.pack("<I", len(value)) + value
    return head + vr.encode() + struct.pack("<H", len(value)) + value


def dicom(elements: list[bytes], syntax: str = EXPLICIT, pixels: bytes = bytes(32)) -> bytes:
    """A whole file."""
    uid = syntax.encode()
    meta = encode((0x00020010, "UI", uid + b"\0" * (len(uid) % 2)))
    implicit = syntax == IMPLICIT
    last = encode((0x7FE00010, "OW", pixels), implicit=implicit)
    return bytes(128) + b"DICM" + meta + b"".join(elements) + last


def thorough(path: Path) -> tuple[Header, StackKey, SliceTimes] | None:
    """The header that pydicom reads; None where it is refused."""
    try:
        dataset = read_dataset(path, pixels=False)
        return parse_header(dataset, path), make_stack_key(dataset), make_slice_times(dataset)
    except SeriesRefused:
        return None


def scanned(path: Path) -> tuple[Header, StackKey, SliceTimes] | None:
    scanner = HeaderScanner()
    found = scanner.read_header(path)
    return None if found is None else (found.header, found.shared.stack_key, scanner.last_times())


def agree(path: Path, data: bytes) -> bool:
    """Check that the scanned header is None or pydicom's; return whether there is one."""
    path.write_bytes(data)
    found = scanned(path)
    assert found is None or found == thorough(path)
    return found is not None


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT])
def test_a_plain_header_is_scanned(tmp_path: Path, syntax: str) -> None:
    elements = [encode(e, implicit=syntax == IMPLICIT) for e in PLAIN]
    assert agree(tmp_path / "a", dicom(elements, syntax))
    header, key, times = scanned(tmp_path / "a") or (None, None, None)
    assert header is not None
    assert key is not None
    assert (header.patient_id, header.instance_number) == ("patient", 17)
    assert header.position_mm == (-120.5, -99.25, 100.0)
    assert key.image_type == "ORIGINAL\\PRIMARY\\AXIAL"
    assert times == ("120000.25", "120001", "20240229120000.25", "612.5")


def nested(depth: int) -> st.SearchStrategy[bytes]:
    """Sequences of undefined and of given length, inside each other."""
    leaf = st.sampled_from(
        [
            encode((0x00081150, "UI", b"1.2\0")),
            encode((0x00280010, "US", struct.pack("<H", 9))),  # Rows of something else
            encode((0x00090010, "UN", b"abc")),
            b"",
        ]
    )
    if depth == 0:
        return leaf
    content = st.lists(nested(depth - 1), max_size=2).map(b"".join)

    def item(value: bytes, closed: bool) -> bytes:
        if closed:
            return struct.pack("<HHI", 0xFFFE, 0xE000, len(value)) + value
        delimiter = struct.pack("<HHI", 0xFFFE, 0xE00D, 0)
        return struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF) + value + delimiter

    items = st.lists(st.builds(item, content, st.booleans()), max_size=2).map(b"".join)

    def sequence(value: bytes, closed: bool) -> bytes:
        head = struct.pack("<HH", 0x0008, 0x1140) + b"SQ\0\0"
        if closed:
            return head + struct.pack("<I", len(value)) + value
        return head + struct.pack("<I", 0xFFFFFFFF) + value + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)

    return st.builds(sequence, items, st.booleans())


VALUES = st.sampled_from(
    [
        b"",
        b" ",
        b"1",
        b"1 ",
        b"+1",
        b"-0",
        b"1.5",
        b"1e5",
        b"1E+2",
        b".5",
        b"5.",
        b"1e999",
        b"nan",
        b"inf",
        b"1\\2",
        b"1\\2\\3",
        b" 1\\2 \\ 3",
        b"1\\2\\3\\4",
        b"1\\\\3",
        b"abc",
        b"0x10",
        b"1_0",
        b"1,5",
        b"12345678901234567890",
        b"1\0",
        b"\0",
        b"\xe4\xf6",
        b"CT",
        b"MR",
        b"SEG",
        b"LOCALIZER",
        b"ORIGINAL\\PRIMARY\\LOCALIZER",
        b"YES",
        b"01",
        b"HU",
        b"1.2.840.10008.5.1.4.1.1.2\0",
        b"1.2.840.10008.1.2.1.99",
        b"0.5\\0.25",
        struct.pack("<H", 1),
        struct.pack("<H", 512),
        struct.pack("<HH", 4, 4),
        b"\x01",
    ]
)
VRS = st.sampled_from(["CS", "DS", "IS", "LO", "UI", "US", "SS", "UN", "OB", "SH", "ST", "zz"])


@settings(
    max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_any_header_gives_none_or_pydicoms(tmp_path: Path, data: st.DataObject) -> None:
    draw = data.draw
    elements = list(PLAIN)
    for _ in range(draw(st.integers(0, 3))):  # irregular values, or values of another VR
        at = draw(st.integers(0, len(elements) - 1))
        tag, vr, _ = elements[at]
        elements[at] = (tag, draw(st.one_of(st.just(vr), VRS)), draw(VALUES))
    for _ in range(draw(st.integers(0, 2))):
        del elements[draw(st.integers(0, len(elements) - 1))]
    extra = st.sampled_from(
        [
            (0x00080000, "UL", struct.pack("<I", 100)),
            (0x00090010, "LO", b"PRIVATE"),
            (0x00091001, "UN", b"odd"),
            (0x00186000, "UN", bytes(5000)),
            (0x00280008, "IS", b"1 "),
            (0x00280008, "IS", b"2 "),
            (0x00280120, "US", struct.pack("<H", 63536)),
            (0x00280301, "CS", b"YES "),
            (0x00281054, "LO", b"US"),
            (0x00282110, "CS", b"01"),
            (0x00200013, "IS", b"18"),
            (0x00041500, "CS", b"A"),
        ]
    )
    elements += draw(st.lists(extra, max_size=3))
    if draw(st.booleans()):
        elements.sort(key=lambda element: element[0])
    implicit = draw(st.booleans())
    written = [encode(e, implicit=implicit) for e in elements]
    if not implicit and draw(st.booleans()):
        at = next((i for i, e in enumerate(elements) if e[0] > 0x00081140), len(written))
        written.insert(at, draw(nested(draw(st.integers(1, 3)))))
    agree(tmp_path / "a", dicom(written, IMPLICIT if implicit else EXPLICIT))


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(sequence=nested(4))
def test_sequences_are_stepped_over(tmp_path: Path, sequence: bytes) -> None:
    elements = [encode(e) for e in PLAIN]
    at = next(i for i, e in enumerate(PLAIN) if e[0] > 0x00081140)
    assert agree(tmp_path / "a", dicom([*elements[:at], sequence, *elements[at:]]))


def test_a_sequence_that_is_cut_or_too_long_is_left_to_pydicom(tmp_path: Path) -> None:
    elements = [encode(e) for e in PLAIN]
    item = struct.pack("<HHI", 0xFFFE, 0xE000, 400) + encode((0x00081150, "UI", b"1.2\0"))
    head = struct.pack("<HH", 0x0008, 0x1140) + b"SQ\0\0" + struct.pack("<I", 0xFFFFFFFF)
    assert not agree(tmp_path / "a", dicom([*elements[:7], head + item, *elements[7:]]))


def test_a_header_longer_than_the_first_read(tmp_path: Path) -> None:
    elements = [encode(e) for e in PLAIN]
    long = encode((0x00091001, "UN", bytes(100_000)))
    assert agree(tmp_path / "a", dicom([*elements[:7], long, *elements[7:]]))


def test_headers_without_pixels_are_left_to_pydicom(tmp_path: Path) -> None:
    write_header(tmp_path / "a")
    assert scanned(tmp_path / "a") is None
    assert thorough(tmp_path / "a") is not None


def test_slices_of_one_kind_differ_in_position_number_and_times_alone(tmp_path: Path) -> None:
    times = {
        "AcquisitionTime": lambda k: f"12000{k}",
        "ContentTime": lambda k: f"12010{k}",
        "AcquisitionDateTime": lambda k: f"2024022912000{k}",
        "TriggerTime": lambda k: 600 + k,
    }
    paths = write_slices(tmp_path, body((8, 12, 12)), tags=times)
    reader = HeaderScanner()
    shared = set()
    for number, path in enumerate(paths, start=1):
        found = reader.read_header(path)
        assert found is not None
        shared.add(id(found.shared))
        assert (found.header, found.shared.stack_key, reader.last_times()) == thorough(path)
        assert found.header.instance_number == number
    assert len(shared) == 1


def test_damaged_files_give_none_or_pydicoms(tmp_path: Path) -> None:
    sources = write_slices(tmp_path / "raw", body((8, 12, 12)))[:1]
    sources += write_slices(tmp_path / "rle", body((8, 12, 12)), rle=True)[:1]
    answers = sum(
        agree(tmp_path / "damaged", mutate(sources[seed % 2].read_bytes(), seed))
        for seed in range(1_500)
    )
    assert 200 < answers < 1_400


@pytest.mark.real_ct
def test_real_files_give_none_or_pydicoms(real_ct: Path, tmp_path: Path) -> None:
    files = [path for path in sorted(real_ct.rglob("*")) if path.is_file()]
    answers = 0
    for path in files:
        found = scanned(path)
        answers += found is not None
        assert found is None or found == thorough(path)
    assert answers > 0.5 * len(files)
    for seed, path in enumerate(files[:: max(1, len(files) // 150)]):
        agree(tmp_path / "damaged", mutate(path.read_bytes(), seed))


def test_an_rle_file_by_pydicom_is_plain(tmp_path: Path) -> None:
    path = write_slices(tmp_path, body((8, 12, 12)))[0]
    dataset = pydicom.dcmread(path)
    dataset.compress(RLELossless, encoding_plugin="pydicom")
    dataset.save_as(path)
    assert scanned(path) == thorough(path)
