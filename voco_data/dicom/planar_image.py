"""Single images for pairs of a volume and an image: values, window and place of one DICOM object.

Of any SOP class, so a scout of CT (ImageType value 3 is LOCALIZER, PS3.3 C.8.2.1.1.1), a radiograph
or a photograph of the eye. No other value leaves this module than those that `PlanarImage` lists.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset

from voco_data.dicom.header import read_dataset
from voco_data.dicom.pixels.decode import FrameReader
from voco_data.dicom.pixels.modality import ModalityTransform, parse_modality_transforms
from voco_data.dicom.values import DatasetValues
from voco_data.errors import SeriesRefused
from voco_data.limits import MAX_PIXELS
from voco_data.reasons import Reason
from voco_data.volumes import PlanarGeometry

GREY_BITS = (8, 16, 32)
"""Accepted BitsAllocated. A CT slice needs more than 8, a photograph does not."""
HEADER_BYTES = 2**26
"""Largest header of an image that is read with its pixels."""
COLOUR_TERMS = ("PALETTE COLOR", "RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
"""Defined terms of PhotometricInterpretation (PS3.3 C.7.6.3.1.2) of images that are not grey."""
WINDOW_FUNCTIONS = ("", "LINEAR", "LINEAR_EXACT")
"""Values of VOILUTFunction (PS3.3 C.11.2.1.3) that are a range; a missing one is LINEAR."""


@dataclass(frozen=True, slots=True)
class PlanarImage:
    """One grey image of a DICOM object."""

    values: npt.NDArray[np.float64]
    """(rows, columns), after rescale slope and intercept."""
    is_measured: npt.NDArray[np.bool_]
    """(rows, columns): False for padding."""
    window: tuple[float, float] | None
    """Values that are shown as black and as white; None if the header has no such window."""
    inverted: bool
    """Whether low values are bright (MONOCHROME1)."""
    geometry: PlanarGeometry | None
    """None if the header has no position, orientation or spacing."""


@dataclass(frozen=True, slots=True)
class FrameOfReference:
    """The study and the coordinate system of an object; empty where the header has none."""

    study_uid: str
    frame_uid: str
    """FrameOfReferenceUID: positions of two objects can be compared if theirs are equal (PS3.3
    C.7.4.1.1.1)."""


def read_frame_of_reference(path: Path) -> FrameOfReference:
    """The study and the frame of reference of one file. Raises SeriesRefused."""
    values = DatasetValues(read_dataset(path, pixels=False))
    return FrameOfReference(values.text("StudyInstanceUID"), values.text("FrameOfReferenceUID"))


def read_planar_geometry(path: Path) -> PlanarGeometry | None:
    """The place of the image of one file, by its header; None if that has none.

    Raises SeriesRefused.
    """
    return _parse_geometry(*_parse_matrix(read_dataset(path, pixels=False)))


def read_planar_image(path: Path, most_pixels: int = MAX_PIXELS) -> PlanarImage:
    """Read the image of one file, of at most `most_pixels`. The size of the file follows from that.

    Raises SeriesRefused for a larger image, colour, several frames, text that was burned in, and
    what cannot be decoded.
    """
    most_bytes = HEADER_BYTES + most_pixels * max(GREY_BITS) // 8
    dataset = read_dataset(path, pixels=True, most_bytes=most_bytes)
    values, shape = _parse_matrix(dataset, most_pixels)
    photometric = values.text("PhotometricInterpretation")
    if photometric not in ("", "MONOCHROME1", "MONOCHROME2"):
        raise SeriesRefused(
            Reason.DERIVED, f"expected a grey image, got {_describe_colours(photometric)}"
        )
    if values.text("BurnedInAnnotation").upper() == "YES":
        raise SeriesRefused(Reason.BURNED_IN, "BurnedInAnnotation is YES")
    stored = FrameReader(dataset, shape, allocated_bits=GREY_BITS).read(0)
    modality = parse_modality_transforms(dataset, 1)[0]
    return PlanarImage(
        values=_rescale(stored, modality),
        is_measured=_find_measured(stored, modality),
        window=_parse_window(values),
        inverted=photometric == "MONOCHROME1",
        geometry=_parse_geometry(values, shape),
    )


def _describe_colours(photometric: str) -> str:
    """PhotometricInterpretation if it is a term of the standard, as free text is never quoted."""
    return photometric if photometric in COLOUR_TERMS else "another kind"


def _parse_matrix(
    dataset: Dataset, most_pixels: int = MAX_PIXELS
) -> tuple[DatasetValues, tuple[int, int]]:
    """The values of the only frame, and its rows and columns. Raises SeriesRefused."""
    top = DatasetValues(dataset)
    shape = top.integer("Rows", 0), top.integer("Columns", 0)
    if min(shape) < 1 or shape[0] * shape[1] > most_pixels:
        raise SeriesRefused(Reason.UNREADABLE, f"rows x columns is {shape[0]} x {shape[1]}")
    if top.integer("SamplesPerPixel", 1) != 1:
        raise SeriesRefused(Reason.DERIVED, "expected a grey image, got colour")
    if top.integer("NumberOfFrames", 1) != 1:
        raise SeriesRefused(Reason.DERIVED, "expected one image, got several frames")
    return DatasetValues.for_frames(dataset, 1)[0], shape


def _rescale(
    stored: npt.NDArray[np.integer], modality: ModalityTransform
) -> npt.NDArray[np.float64]:
    """Values (PS3.3 C.11.1). They are no HU in a scout, so they are neither rounded nor clipped."""
    if modality.lut is not None:
        index = np.clip(stored.astype(np.int64) - modality.first_mapped, 0, len(modality.lut) - 1)
        return modality.lut[index]
    return stored.astype(np.float64) * modality.slope + modality.intercept


def _find_measured(
    stored: npt.NDArray[np.integer], modality: ModalityTransform
) -> npt.NDArray[np.bool_]:
    if modality.padding is None:
        return np.ones(stored.shape, np.bool_)
    low, high = modality.padding
    return (stored < low) | (stored > high)


def _parse_window(values: DatasetValues) -> tuple[float, float] | None:
    """The range of the first window (PS3.3 C.11.2.1.2); None if there is none, or it is a curve."""
    function = values.text("VOILUTFunction").upper()
    centres, widths = (values.text(name).split("\\") for name in ("WindowCenter", "WindowWidth"))
    if function not in WINDOW_FUNCTIONS or not centres[0] or not widths[0]:
        return None
    try:
        centre, width = float(centres[0]), float(widths[0])
    except ValueError as error:
        raise SeriesRefused(
            Reason.UNREADABLE, "WindowCenter or WindowWidth is no number"
        ) from error
    if function != "LINEAR_EXACT":
        centre, width = centre - 0.5, width - 1
    if not 0 < width < float("inf") or not abs(centre) < float("inf"):
        return None  # a threshold is no window
    return centre - width / 2, centre + width / 2


def _parse_geometry(values: DatasetValues, shape: tuple[int, int]) -> PlanarGeometry | None:
    """The geometry (PS3.3 C.7.6.2); spacing at the detector (C.8.3.4) if there is no other."""
    spacing = values.numbers("PixelSpacing", 2) or values.numbers("ImagerPixelSpacing", 2)
    position = values.numbers("ImagePositionPatient", 3)
    orientation = values.numbers("ImageOrientationPatient", 6)
    if spacing is None or position is None or orientation is None:
        return None
    return PlanarGeometry(
        shape=shape,
        spacing_mm=(spacing[0], spacing[1]),
        position_mm=(position[0], position[1], position[2]),
        along_row=(orientation[0], orientation[1], orientation[2]),
        along_column=(orientation[3], orientation[4], orientation[5]),
    )
