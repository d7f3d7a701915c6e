"""Values of .npy, .png and .dcm images, and one line for each file that cannot be used."""

from __future__ import annotations

import struct
import subprocess
import sys
import textwrap
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.ellipsoid_scans import write_image
from tests.support.project import PROJECT
from voco_data.errors import InputError
from voco_data.paired_images.image_files import max_pixels, read_image, read_mask
from voco_data.paired_images.map_area import MapArea
from voco_data.paired_images.placement import place

RAMP = np.arange(100, dtype=np.uint16).reshape(10, 10) * 600
AREA = MapArea("coronal", (10, 10), (0.0, 100.0), (0.0, 100.0))


def write_png(path: Path, pixels: Any, *, bits: int, colour_type: int = 0) -> Path:
    """A PNG by its specification (RFC 2083), without a library."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    rows, columns = pixels.shape[:2]
    big_endian = pixels.astype(">u2" if bits == 16 else "u1")
    content = b"".join(b"\0" + row.tobytes() for row in big_endian)
    header = struct.pack(">IIBBBBB", columns, rows, bits, colour_type, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(content))
        + chunk(b"IEND", b"")
    )
    return path


@pytest.mark.parametrize("bits", [8, 16])
def test_grey_pngs_of_8_and_16_bits(tmp_path: Path, bits: int) -> None:
    pixels = RAMP if bits == 16 else (RAMP // 256).astype(np.uint8)
    image = read_image(write_png(tmp_path / "coronal.png", pixels, bits=bits))
    np.testing.assert_array_equal(image.values, pixels)
    assert image.is_measured.all()
    assert image.value_range is None


def test_integers_are_scaled_by_percentiles_and_floats_are_not(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", RAMP.astype(np.int32) - 30_000)
    np.save(tmp_path / "b.npy", RAMP.astype(np.float32) / 80_000)
    scaled = place(read_image(tmp_path / "a.npy"), AREA).values[::-1]
    low, high = np.percentile(RAMP, [1, 99])
    np.testing.assert_allclose(scaled, np.clip((RAMP - low) / (high - low), 0, 1), atol=1e-12)
    kept = place(read_image(tmp_path / "b.npy"), AREA).values[::-1]
    np.testing.assert_allclose(kept, RAMP / 80_000, atol=1e-7)


@pytest.mark.parametrize(
    ("tags", "shown"),
    [
        # PS3.3 C.11.2.1.2.1: y = ((x - (c - 0.5)) / (w - 1) + 0.5), and C.11.2.1.3.2 without 0.5, 1
        ({}, lambda hu: (hu - (49.5 - 199.5)) / 399),
        ({"VOILUTFunction": "LINEAR_EXACT"}, lambda hu: (hu + 150) / 400),
        ({"WindowCenter": [50, 700], "WindowWidth": [400, 1]}, lambda hu: (hu + 150) / 399),
        (
            {"PhotometricInterpretation": "MONOCHROME1"},
            lambda hu: 1 - np.clip((hu + 150) / 399, 0, 1),
        ),
    ],
)
def test_a_dicom_image_is_scaled_by_its_window(
    tmp_path: Path, tags: dict[str, Any], shown: Any
) -> None:
    stored = (np.arange(100).reshape(10, 10) * 8).astype("<u2")
    window = {"WindowCenter": 50, "WindowWidth": 400, "RescaleSlope": 2, "RescaleIntercept": -500}
    write_image(tmp_path / "a.dcm", stored, **(window | tags))
    placed = place(read_image(tmp_path / "a.dcm"), AREA).values[::-1]
    np.testing.assert_allclose(placed, np.clip(shown(stored * 2.0 - 500), 0, 1), atol=1e-12)


def test_a_dicom_image_without_window_is_scaled_by_percentiles(tmp_path: Path) -> None:
    """Also one of 8 bits, as photographs are, and with a curve for a window."""
    stored = np.arange(100, dtype=np.uint8).reshape(10, 10)
    for name, tags in (
        ("a", {}),
        ("b", {"WindowCenter": 50, "WindowWidth": 9, "VOILUTFunction": "SIGMOID"}),
    ):
        write_image(tmp_path / f"{name}.dcm", stored, Modality="OP", **tags)
        placed = place(read_image(tmp_path / f"{name}.dcm"), AREA).values[::-1]
        low, high = np.percentile(stored, [1, 99])
        np.testing.assert_allclose(placed, np.clip((stored - low) / (high - low), 0, 1))


def test_padding_is_not_measured(tmp_path: Path) -> None:
    stored = np.arange(100, 200, dtype="<u2").reshape(10, 10)
    stored[2] = 7
    write_image(tmp_path / "a.dcm", stored, PixelPaddingValue=7)
    placed = place(read_image(tmp_path / "a.dcm"), AREA)
    assert (~placed.is_valid).nonzero()[0].tolist() == [7] * 10  # the third row from above


def test_masks(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.eye(9, dtype=np.uint8) * 3)
    write_png(tmp_path / "a.png", np.eye(9) * 255, bits=8)
    for name in ("a.npy", "a.png"):
        np.testing.assert_array_equal(read_mask(tmp_path / name), np.eye(9, dtype=bool))
    np.save(tmp_path / "b.npy", np.eye(9))
    with pytest.raises(InputError, match=r"b\.npy: expected a mask .* of integers"):
        read_mask(tmp_path / "b.npy")
    with pytest.raises(InputError, match=r"expected a mask \.npy or \.png"):
        read_mask(tmp_path / "b.dcm")


def damaged(path: Path, kind: str) -> Path:
    rng = np.random.default_rng(0)
    match kind:
        case "nan":
            np.save(path / "a.npy", np.full((9, 9), np.nan))
        case "floats":
            np.save(path / "a.npy", rng.uniform(0, 255, (9, 9)))
        case "objects":
            np.save(path / "a.npy", np.array([[{}] * 9] * 9), allow_pickle=True)
        case "text":
            np.save(path / "a.npy", np.array([["x"] * 9] * 9))
        case "volume":
            np.save(path / "a.npy", np.zeros((9, 9, 9), np.uint8))
        case "small":
            np.save(path / "a.npy", np.zeros((3, 900), np.uint8))
        case "cut":
            np.save(path / "a.npy", RAMP)
            content = (path / "a.npy").read_bytes()
            (path / "a.npy").write_bytes(content[: len(content) // 2])
        case "huge":
            header = np.lib.format.magic(1, 0)
            text = "{'descr': '|u1', 'fortran_order': False, 'shape': (90000, 90000)}"
            text = text.ljust(118 - 1) + "\n"
            with (path / "a.npy").open("wb") as file:
                file.write(header + struct.pack("<H", len(text)) + text.encode())
                file.truncate(128 + 90_000**2)  # a hole: no disk is used
        case "colour":
            return write_png(path / "a.png", np.zeros((9, 27)), bits=8, colour_type=2)
        case "no png":
            (path / "a.png").write_bytes(b"GIF89a" * 40)
        case "jpeg":
            (path / "a.jpg").write_bytes(b"")
        case "colour dicom":
            pixels = np.zeros((9, 27), np.uint8)
            rgb = {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "Columns": 9}
            write_image(path / "a.dcm", pixels, **rgb)
        case "palette dicom":
            pixels = np.zeros((9, 9), np.uint8)
            write_image(path / "a.dcm", pixels, PhotometricInterpretation="PALETTE COLOR")
        case "frames":
            write_image(path / "a.dcm", np.zeros((18, 9), "<u2"), Rows=9, NumberOfFrames=2)
        case "text in pixels":
            write_image(path / "a.dcm", np.zeros((9, 9), "<u2"), BurnedInAnnotation="YES")
        case "cut dicom":
            write_image(path / "a.dcm", np.zeros((9, 9), "<u2"), PixelData=b"\0\0")
        case "missing":
            return path / "a.png"
    return next(path.glob("a.*"))


@pytest.mark.parametrize(
    ("kind", "match"),
    [
        ("nan", "expected floats from 0 to 1 without NaN"),
        ("floats", "expected floats from 0 to 1 .* or integers, which are scaled"),
        ("objects", "cannot be read as an image"),
        ("text", "expected numbers, got <U1"),
        ("volume", r"expected a grey image \(rows, columns\), got \(9, 9, 9\)"),
        ("small", "expected at least 8 x 8 pixels, got 3 x 900"),
        ("cut", "cannot be read as an image"),
        ("huge", "expected at most 67108864 pixels, got 8100000000"),
        ("colour", r"expected a grey PNG of 8 or 16 bits, got colour .* \(RGB\); convert"),
        ("no png", "cannot be read as an image"),
        ("jpeg", r"expected a file \.npy, \.png, \.dcm"),
        ("colour dicom", "expected a grey image, got colour"),
        ("palette dicom", "expected a grey image, got PALETTE COLOR"),
        ("frames", "expected one image, got several frames"),
        ("text in pixels", "BurnedInAnnotation is YES"),
        ("cut dicom", "pixel data has 2 bytes, expected 162"),
        ("missing", "no such file"),
    ],
)
def test_what_is_no_grey_image_is_one_line_with_its_path(
    tmp_path: Path, kind: str, match: str
) -> None:
    path = damaged(tmp_path, kind)
    with pytest.raises(InputError, match=match) as caught:
        read_image(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_npy_is_read_where_the_libraries_of_archives_are_absent(tmp_path: Path) -> None:
    """A machine that only trains: .png and .dcm then say what to install."""
    np.save(tmp_path / "a.npy", RAMP)
    write_png(tmp_path / "a.png", RAMP, bits=16)
    write_image(tmp_path / "a.dcm", RAMP)
    code = f"""
        import sys
        for name in ("PIL", "pydicom", "numba", "scipy", "imagecodecs", "SimpleITK"):
            sys.modules[name] = None
        from pathlib import Path
        from voco_data.errors import InputError
        from voco_data.paired_images import read_paired_images
        from voco_data.paired_images.image_files import read_image
        print(read_image(Path("{tmp_path}/a.npy")).values.shape)
        for name in ("a.png", "a.dcm"):
            try:
                read_image(Path("{tmp_path}") / name)
            except InputError as error:
                print(error)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=True,
    )
    shape, png, dicom = done.stdout.splitlines()
    assert shape == "(10, 10)"
    assert "Pillow is not installed; pip install 'voco[ingest]', or give .npy" in png
    assert "pydicom is not installed" in dicom


def test_the_size_of_an_image_is_limited_by_its_map_before_pixels_are_read(tmp_path: Path) -> None:
    """The files claim 67 million pixels; a map of 4 x 16 cells allows 4 million."""
    most = max_pixels((4, 16))
    assert most == 2048 * 2048
    assert max_pixels((64, 128)) == 64 * 64 * 64 * 128
    assert max_pixels((512, 512)) == 8192 * 8192
    write_png(tmp_path / "a.png", np.zeros((8192, 8192), np.uint8), bits=8)
    with (tmp_path / "a.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(
            file, {"descr": "|u1", "fortran_order": False, "shape": (8192, 8192)}
        )
        file.truncate(8192 * 8192 + file.tell())
    tracemalloc.start()
    try:
        for name in ("a.png", "a.npy"):
            for read in (read_image, read_mask):
                with pytest.raises(InputError, match="expected at most 4194304 pixels"):
                    read(tmp_path / name, most)
        assert tracemalloc.get_traced_memory()[1] < 2**22
    finally:
        tracemalloc.stop()


def test_a_zip_archive_is_no_array(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", RAMP)
    (tmp_path / "a.npz").rename(tmp_path / "a.npy")
    with pytest.raises(InputError, match="expected an array of NumPy"):
        read_image(tmp_path / "a.npy")
