"""One grey image from a file: .npy, .png or .dcm, with what its header says of values and place.

NumPy reads .npy everywhere. The libraries for .png and .dcm are loaded when such a file is read, as
a machine that only trains may lack them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from voco_data.errors import InputError, SeriesRefused
from voco_data.limits import MAX_PIXELS
from voco_data.volumes import PlanarGeometry

SUFFIXES = (".npy", ".png", ".dcm")
MIN_PIXELS = 8
"""Least number of rows and of columns."""
MIN_LIMIT, PIXELS_PER_CELL = 2048 * 2048, 4096
"""An image may have as many pixels as this for each cell of its map (64 along each axis), at least
those of a radiograph, and never more than MAX_PIXELS of `voco_data.limits`."""

NPY_START = b"\x93NUMPY"

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


def max_pixels(map_shape: tuple[int, int]) -> int:
    """The most pixels of an image for a map of a series, (rows, columns)."""
    return min(MAX_PIXELS, max(MIN_LIMIT, PIXELS_PER_CELL * math.prod(map_shape)))


def read_image(path: Path, most_pixels: int = MAX_PIXELS) -> GreyImage:
    """Read one image. Raises InputError, one line that names the file.

    A header that claims more than `most_pixels` is refused before pixels are read. Floats of .npy
    must be from 0 to 1, and stay as they are.
    """
    values: npt.NDArray[np.generic]
    match path.suffix.lower():
        case ".npy":
            values = _read_npy(path, most_pixels)
        case ".png":
            values = _read_png(path, most_pixels)
        case ".dcm":
            return _check(_read_dicom(path, most_pixels), path)
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


def read_mask(path: Path, most_pixels: int = MAX_PIXELS) -> Bits:
    """A mask from .npy or .png, (rows, columns): True where not 0. Raises as `read_image`."""
    if path.suffix.lower() not in (".npy", ".png"):
        raise InputError(f"{path}: expected a mask .npy or .png")
    read = _read_npy if path.suffix.lower() == ".npy" else _read_png
    values = read(path, most_pixels)
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


def _check_size(path: Path, n_pixels: int, most_pixels: int) -> None:
    """Before pixels are decoded: a small file may claim to be a huge image."""
    if n_pixels > most_pixels:
        raise InputError(f"{path}: expected at most {most_pixels} pixels, got {n_pixels}")


def _read_npy(path: Path, most_pixels: int) -> npt.NDArray[np.generic]:
    try:
        with path.open("rb") as file:  # np.load would also open ZIP archives of arrays
            if file.read(len(NPY_START)) != NPY_START:
                raise InputError(f"{path}: expected an array of NumPy, as np.save writes it")
        mapped = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise _unreadable(path, error) from error
    _check_size(path, mapped.size, most_pixels)
    values: npt.NDArray[np.generic] = np.array(mapped)
    return values


def _read_png(path: Path, most_pixels: int) -> npt.NDArray[np.generic]:
    try:
        from PIL import Image, UnidentifiedImageError
    except ModuleNotFoundError as error:
        raise _missing(path, "Pillow") from error
    try:
        with Image.open(path, formats=("PNG",)) as file:
            _check_size(path, file.size[0] * file.size[1], most_pixels)
            if file.mode not in ("1", "L", "I;16", "I"):
                raise InputError(
                    f"{path}: expected a grey PNG of 8 or 16 bits, got colour or transparency "
                    f"({file.mode}); convert it to grey"
                )
            return np.array(file)
    except (OSError, ValueError, SyntaxError, UnidentifiedImageError) as error:
        raise _unreadable(path, error) from error


def _read_dicom(path: Path, most_pixels: int) -> GreyImage:
    try:
        from voco_data.dicom import read_planar_image
    except ModuleNotFoundError as error:
        raise _missing(path, "pydicom") from error
    try:
        image = read_planar_image(path, most_pixels)
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
