"""OCT scans: VOL files that are written byte by byte, with values and places known by formula."""

from __future__ import annotations

import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from voco_data.errors import InputError
from voco_data.paired_images import read_oct

N_BSCANS, DEPTH, WIDTH = 8, 64, 32
SLO = (60, 80)
"""Rows, columns of the localizer."""
SLO_MM = (0.05, 0.04)
"""Distance of its rows and columns."""
START_MM, END_MM, STEP_MM = np.array([0.3, 2.6]), np.array([2.7, 2.2]), np.array([0.03, -0.25])
"""x and y of the first B-scan's ends, and from one B-scan to the next: they are slanted."""


def localizer() -> Any:
    """Values that grow linearly along rows and columns."""
    row, column = np.mgrid[: SLO[0], : SLO[1]]
    return (20 + 2 * row + column).astype(np.uint8)


def intensities() -> Any:
    """Raw reflectivity: a bright layer that lies deeper in later B-scans."""
    raw = np.full((N_BSCANS, DEPTH, WIDTH), 0.001, np.float32)
    for bscan in range(N_BSCANS):
        raw[bscan, 20 + 2 * bscan : 24 + 2 * bscan] = 0.5
    raw[0, :, 0] = np.finfo(np.float32).max  # no measurement
    return raw


def write_vol(path: Path, *, pattern: int = 3, shift_mm: float = 0.0) -> Path:
    """A file by the description of the VOL format ("Special Function: Exporting Raw Data")."""
    header = struct.pack(
        "<12sIIIdddIIddId4sQiI16s16sI24sd",
        b"HSF-OCT-103", WIDTH, N_BSCANS, DEPTH, 0.07, 0.25, 0.0039,
        SLO[1], SLO[0], SLO_MM[1], SLO_MM[0], 30, 0.0, b"OD", 0, pattern, 256, b"1", b"",
        0, b"unknown", 0.0,
    )  # fmt: skip
    header += struct.pack("<I24sdIIII34s", 0, b"", 0.0, 0, 0, 0, 0, b"")
    content = header.ljust(2048, b"\0") + localizer().tobytes()
    for bscan, raw in enumerate(intensities()):
        start, end = (p + bscan * STEP_MM + shift_mm for p in (START_MM, END_MM))
        part = struct.pack("<12sIddddIIfI", b"HSF-BS-103", 256, *start, *end, 0, 256, 30.0, 0)
        content += part.ljust(256, b"\0") + raw.tobytes()
    path.write_bytes(content)
    return path


def enface() -> Any:
    """The localizer's formula at the places of the A-scans, (B, W)."""
    t = np.linspace(0, 1, WIDTH)[None, :, None]
    bscan = np.arange(N_BSCANS)[:, None, None]
    places = START_MM * (1 - t) + END_MM * t + bscan * STEP_MM
    return 20 + 2 * places[..., 1] / SLO_MM[0] + places[..., 0] / SLO_MM[1]


def scaled(values: Any) -> Any:
    low, high = np.percentile(values, [1, 99])
    return np.clip((values - low) / (high - low), 0, 1)


@pytest.fixture(autouse=True)
def _eyepy(request: pytest.FixtureRequest) -> None:
    if "absent" not in request.node.name:
        pytest.importorskip("eyepy")


def test_the_image_is_the_localizer_along_the_b_scans(tmp_path: Path) -> None:
    scan = read_oct(write_vol(tmp_path / "a.vol"), (N_BSCANS, DEPTH, WIDTH))
    assert scan.is_valid.all()
    np.testing.assert_allclose(scan.image, scaled(enface()), rtol=0, atol=1e-5)
    assert scan.spacing_mm == pytest.approx((0.25, 0.0039, 0.07))


def test_voxels_are_in_the_contrast_of_the_viewer(tmp_path: Path) -> None:
    """ln(raw + 0.000244) from -8.3 to about 0 are the grey values 0 to 255."""
    scan = read_oct(write_vol(tmp_path / "a.vol"), (N_BSCANS, DEPTH, WIDTH))
    raw = intensities()
    expected = (np.log(raw + 2.44e-4) + 8.3) / 8.285 * 255
    expected[raw > 1] = 0
    assert scan.volume.dtype == np.uint8
    np.testing.assert_allclose(scan.volume, expected, rtol=0, atol=1)


def test_a_coarser_grid_has_means(tmp_path: Path) -> None:
    path = write_vol(tmp_path / "a.vol")
    fine = read_oct(path, (N_BSCANS, DEPTH, WIDTH))
    coarse = read_oct(path, (4, 16, 8))
    means = fine.volume.reshape(4, 2, 16, 4, 8, 4).mean(axis=(1, 3, 5))
    np.testing.assert_allclose(coarse.volume, means, rtol=0, atol=0.51)
    expected = scaled(enface().reshape(4, 2, 8, 4).mean(axis=(1, 3)))
    np.testing.assert_allclose(coarse.image, expected, rtol=0, atol=1e-5)
    assert coarse.spacing_mm == pytest.approx((0.5, 0.0156, 0.28))


def test_places_beyond_the_localizer_are_not_valid(tmp_path: Path) -> None:
    """The localizer ends at x = 79 * 0.04 and y = 59 * 0.05 mm; all is moved by 0.6 mm."""
    scan = read_oct(write_vol(tmp_path / "a.vol", shift_mm=0.6), (N_BSCANS, DEPTH, WIDTH))
    t = np.linspace(0, 1, WIDTH)[None, :, None]
    places = START_MM * (1 - t) + END_MM * t + np.arange(N_BSCANS)[:, None, None] * STEP_MM + 0.6
    inside = (places[..., 0] <= 79 * 0.04) & (places[..., 1] <= 59 * 0.05)
    assert 0 < inside.sum() < inside.size
    np.testing.assert_array_equal(scan.is_valid, inside)
    assert not scan.image[~inside].any()


@pytest.mark.parametrize(
    ("kind", "match"),
    [
        ("cut", "cannot be read as OCT"),
        ("star", "cannot be read as OCT .*scan pattern 5"),
        ("far", "the localizer shows no B-scan"),
        ("jpg", r"expected an OCT file \.vol or \.xml"),
        ("missing", "no such file"),
        ("xml", "cannot be read as OCT"),
    ],
)
def test_what_is_no_scan_is_one_line(tmp_path: Path, kind: str, match: str) -> None:
    path = tmp_path / "a.vol"
    match kind:
        case "cut":
            content = write_vol(path).read_bytes()
            path.write_bytes(content[: len(content) // 2])
        case "star":
            write_vol(path, pattern=5)
        case "far":
            write_vol(path, shift_mm=50.0)
        case "jpg" | "xml":
            path = tmp_path / f"a.{kind}"
            path.write_text("<a></a>")
    with pytest.raises(InputError, match=match) as caught:
        read_oct(path, (8, 64, 32))
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(str(path))


def test_absent_libraries_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "eyepy", None)
    with pytest.raises(InputError, match=r"OCT needs eyepy: pip install 'voco\[oct\]'"):
        read_oct(tmp_path / "a.vol", (8, 64, 32))
