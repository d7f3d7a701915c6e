"""One grey image from a file: .npy, .png or .dcm, with what its header says of values and place.

NumPy reads .npy everywhere. The libraries for .png and .dcm are loaded when such a file is read, as
a machine that only trains may lack them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from voco_data.errors import InputError, SeriesRefused
from voco_data.volumes import PlanarGeometry

SUFFIXES = (".npy", ".png", ".dcm")
MIN_PIXELS = 8
"""Least number of rows and of columns."""
MAX_PIXELS = 8192 * 8192
"""Largest product of rows and columns."""

Floats = npt.NDArray[np.float64]
Bits = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class GreyImage:
    """A grey image in the order of its file."""

    values: Floats
    """(rows, columns), finite where measured."""
    is_measured: Bits
    """(rows, columns)."""
    value_range: tuple[float, float] | None
    """Values that become 0 and 1; None if the percentiles of the values give them."""
    inverted: bool = False
    """Whether low values are bright."""
    geometry: PlanarGeometry | None = None
    """Its place in the patient; None if the file does not tell."""


def read_image(path: Path) -> GreyImage:
    """Read one image. Raises InputError, one line that names the file.

    Floats of .npy must be from 0 to 1, and stay as they are.
    """
    values: npt.NDArray[np.generic]
    match path.suffix.lower():
        case ".npy":
            values = _read_npy(path)
        case ".png":
            values = _read_png(path)
        case ".dcm":
            return _check(_read_dicom(path), path)
        case _:
            raise InputError(f"{path}: expected a file {', '.join(SUFFIXES)}")
    if values.ndim != 2:
        raise InputError(f"{path}: expected a grey image (rows, columns), got {values.shape}")
    is_float = values.dtype.kind == "f"
    if not is_float and values.dtype.kind not in "bui":
        raise InputError(f"{path}: expected numbers, got {values.dtype}")
    numbers = values.astype(np.float64)
    if is_float and not ((numbers >= 0) & (numbers <= 1)).all():  # NaN is neither
        raise InputError(
            f"{path}: expected floats from 0 to 1 without NaN, or integers, which are scaled; mark "
            "what is not measured in a mask"
        )
    measured = np.ones(numbers.shape, np.bool_)
    return _check(GreyImage(numbers, measured, (0.0, 1.0) if is_float else None), path)


def read_mask(path: Path) -> Bits:
    """A mask from .npy or .png, (rows, columns): True where not 0. Raises InputError."""
    if path.suffix.lower() not in (".npy", ".png"):
        raise InputError(f"{path}: expected a mask .npy or .png")
    values = _read_npy(path) if path.suffix.lower() == ".npy" else _read_png(path)
    if values.ndim != 2 or values.dtype.kind not in "bui":
        raise InputError(f"{path}: expected a mask (rows, columns) of integers, 0 is not measured")
    is_measured: Bits = np.asarray(values != 0)
    return is_measured


def _check(image: GreyImage, path: Path) -> GreyImage:
    rows, columns = image.values.shape
    if min(rows, columns) < MIN_PIXELS:
        raise InputError(
            f"{path}: expected at least {MIN_PIXELS} x {MIN_PIXELS} pixels, got {rows} x {columns}"
        )
    return image


def _check_size(path: Path, n_pixels: int) -> None:
    """Before pixels are decoded: a small file may claim to be a huge image."""
    if n_pixels > MAX_PIXELS:
        raise InputError(f"{path}: expected at most {MAX_PIXELS} pixels, got {n_pixels}")


def _read_npy(path: Path) -> npt.NDArray[np.generic]:
    try:
        mapped = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise _unreadable(path, error) from error
    _check_size(path, mapped.size)
    values: npt.NDArray[np.generic] = np.array(mapped)
    return values


def _read_png(path: Path) -> npt.NDArray[np.generic]:
    try:
        from PIL import Image, UnidentifiedImageError
    except ModuleNotFoundError as error:
        raise _missing(path, "Pillow") from error
    try:
        with Image.open(path, formats=("PNG",)) as file:
            _check_size(path, file.size[0] * file.size[1])
            if file.mode not in ("1", "L", "I;16", "I"):
                raise InputError(
                    f"{path}: expected a grey PNG of 8 or 16 bits, got colour or transparency "
                    f"({file.mode}); convert it to grey"
                )
            return np.array(file)
    except (OSError, ValueError, SyntaxError, UnidentifiedImageError) as error:
        raise _unreadable(path, error) from error


def _read_dicom(path: Path) -> GreyImage:
    try:
        from voco_data.dicom import read_planar_image
    except ModuleNotFoundError as error:
        raise _missing(path, "pydicom") from error
    try:
        image = read_planar_image(path)
    except SeriesRefused as refusal:
        raise InputError(f"{path}: {refusal.detail}") from refusal
    return GreyImage(
        values=image.values,
        is_measured=image.is_measured,
        value_range=image.window,
        inverted=image.inverted,
        geometry=image.geometry,
    )


def _missing(path: Path, library: str) -> InputError:
    return InputError(
        f"{path}: {library} is not installed; pip install 'voco[ingest]', or give .npy"
    )


def _unreadable(path: Path, error: Exception) -> InputError:
    if isinstance(error, FileNotFoundError):
        return InputError(f"{path}: no such file")
    return InputError(f"{path}: cannot be read as an image ({type(error).__name__})")
