"""Write one scan as DICOM files with the quirks of real archives, or as a NIfTI file."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.multival import MultiValue
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, RLELossless
from rle.utils import encode_pixel_data

from voco_data.phantom.patient.model import PatientModel
from voco_data.phantom.patient.pose import Scan
from voco_data.phantom.render import acquire, render_scan

RESCALE_INTERCEPT = 1024
"""HU of a stored 0. Stored values have 12 bits and a sign, so -2048..2047 is HU -1024..3071."""
BITS_STORED = 12
TransferSyntax = Literal["rle", "explicit"]
TagRow = dict[str, object]
TAGS = (
    "BitsAllocated",
    "BitsStored",
    "Columns",
    "FrameOfReferenceUID",
    "HighBit",
    "ImageOrientationPatient",
    "ImagePositionPatient",
    "InstanceNumber",
    "KVP",
    "PatientID",
    "PatientPosition",
    "PhotometricInterpretation",
    "PixelRepresentation",
    "PixelSpacing",
    "RescaleIntercept",
    "RescaleSlope",
    "RescaleType",
    "Rows",
    "SOPInstanceUID",
    "SamplesPerPixel",
    "SeriesInstanceUID",
    "SeriesNumber",
    "SliceThickness",
    "StudyInstanceUID",
    "WindowCenter",
    "WindowWidth",
)
"""Columns of RATIC's table of DICOM tags."""


@dataclass(frozen=True, slots=True)
class DicomStyle:
    """The style of the files of a series. The defaults give a plain, correct series."""

    transfer_syntax: TransferSyntax = "rle"
    """RLE Lossless, or Explicit VR Little Endian."""
    descending: bool = False
    """Whether the lowest instance number is the highest plane."""
    first_instance: int = 1
    modality: str | None = "CT"
    """None leaves the tag out, as in RATIC."""
    patient_name: str | None = "PHANTOM^ONE"
    """None leaves the tag out."""
    patient_id: str = "PHANTOM-1"
    key: str = "phantom"
    """The UIDs of study and frame of reference are derived from it."""
    series_key: str = "1"
    """Distinguishes the series of one study."""
    series_number: int = 1
    window_centre: tuple[int, ...] = (50,)
    """More than one value makes WindowCenter and WindowWidth multi-valued."""
    window_width: tuple[int, ...] = (400,)

    def __post_init__(self) -> None:
        if len(self.window_centre) != len(self.window_width):
            raise ValueError("window_centre and window_width need the same length")

    def uid(self, *parts: str) -> str:
        """A UID under 2.25 (DICOM PS3.5 B.2) that depends on `key` and `parts` alone."""
        text = "/".join((self.key, *parts))
        return f"2.25.{int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], 'big')}"

    def instance_of_slice(self, index: int, slices: int) -> int:
        """Instance number of the plane `index`, counted from the lowest."""
        return self.first_instance + (slices - 1 - index if self.descending else index)


def write_series(
    folder: Path,
    patient: PatientModel,
    scan: Scan,
    style: DicomStyle | None = None,
    *,
    hu: NDArray[np.int16] | None = None,
) -> list[TagRow]:
    """Write `<instance number>.dcm` files into `folder` (made if absent), one a plane.

    Stores `hu` (z, y, x), or without it the acquired image of `patient` on `scan`. Returns the TAGS
    of each file, from the lowest plane up.
    """
    style = style or DicomStyle()
    image = acquire(render_scan(patient, scan), scan) if hu is None else hu
    if image.shape != scan.shape:
        raise ValueError(f"hu has shape {image.shape}, the scan has {scan.shape}")
    folder.mkdir(parents=True, exist_ok=True)
    header = _series_header(patient, scan, style)
    rows = []
    for index, plane in enumerate(image):
        _set_plane(header, scan, style, index)
        _set_pixels(header, plane, style.transfer_syntax)
        header.save_as(folder / f"{header.InstanceNumber}.dcm", enforce_file_format=True)
        rows.append(_tag_row(header))
    return rows


def _series_header(patient: PatientModel, scan: Scan, style: DicomStyle) -> Dataset:
    """The attributes that all planes of a series share."""
    header = Dataset()
    header.SOPClassUID = CTImageStorage
    header.StudyInstanceUID = style.uid("study")
    header.SeriesInstanceUID = style.uid(style.series_key)
    header.FrameOfReferenceUID = style.uid("frame")
    # A date that depends on the key alone, in the year of RATIC.
    day = int(hashlib.sha256(style.key.encode()).hexdigest()[:6], 16) % 28 + 1
    header.StudyDate = header.SeriesDate = header.ContentDate = f"202207{day:02d}"
    if style.modality is not None:
        header.Modality = style.modality
    if style.patient_name is not None:
        header.PatientName = style.patient_name
    header.PatientID = style.patient_id
    header.PatientSex = patient.sex
    header.PatientPosition = "HFS"
    header.SeriesNumber = style.series_number
    header.KVP = "120"
    header.SliceThickness = _decimal(scan.spacing_mm)
    header.ImageOrientationPatient = ["1", "0", "0", "0", "1", "0"]
    header.PixelSpacing = [_decimal(scan.pixel_mm)] * 2
    header.Rows, header.Columns = scan.rows, scan.columns
    header.SamplesPerPixel = 1
    header.PhotometricInterpretation = "MONOCHROME2"
    header.BitsAllocated = 16
    header.BitsStored = BITS_STORED
    header.HighBit = BITS_STORED - 1
    header.PixelRepresentation = 1
    header.WindowCenter = [str(v) for v in style.window_centre]
    header.WindowWidth = [str(v) for v in style.window_width]
    header.RescaleIntercept = str(RESCALE_INTERCEPT)
    header.RescaleSlope = "1"
    header.RescaleType = "HU"
    return header


def _set_plane(header: Dataset, scan: Scan, style: DicomStyle, index: int) -> None:
    """The attributes of one plane (image plane module, DICOM PS3.3 C.7.6.2)."""
    instance = style.instance_of_slice(index, scan.slices)
    header.InstanceNumber = instance
    header.SOPInstanceUID = style.uid(style.series_key, str(instance))
    header.ContentTime = f"12{style.series_number % 60:02d}{index % 60:02d}"
    position = (*scan.corner_mm, float(scan.z_mm[index]))
    header.ImagePositionPatient = [_decimal(v) for v in position]
    # pydicom completes the file meta information when it saves.
    header.file_meta = FileMetaDataset()


def _set_pixels(header: Dataset, plane: NDArray[np.int16], syntax: TransferSyntax) -> None:
    """Pixel data with the upper four bits 0, so that a reader has to extend the sign."""
    stored = (plane.astype("<i2") - np.int16(RESCALE_INTERCEPT)).view("<u2")
    raw = (stored & np.uint16(2**BITS_STORED - 1)).tobytes()
    if syntax == "explicit":
        header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        header.PixelData = raw
        header["PixelData"].VR = "OW"
        return
    header.file_meta.TransferSyntaxUID = RLELossless
    frame = encode_pixel_data(
        raw,
        byteorder="<",
        rows=plane.shape[0],
        columns=plane.shape[1],
        samples_per_pixel=1,
        bits_allocated=16,
    )
    header.PixelData = encapsulate([frame])
    header["PixelData"].VR = "OB"
    header["PixelData"].is_undefined_length = True


def _tag_row(header: Dataset) -> TagRow:
    """The TAGS of a file in the types of RATIC's table: numbers and text, lists as text."""
    row = {tag: _plain(header.get(tag)) for tag in TAGS}
    # These two are a number in one file and a list in another; a column has one type.
    return row | {tag: str(row[tag]) for tag in ("WindowCenter", "WindowWidth")}


def _plain(value: object) -> object:
    if isinstance(value, MultiValue):
        return str([float(item) for item in value])
    if isinstance(value, int) or value is None:
        return value
    return float(value) if isinstance(value, float) else str(value)


def _decimal(value: float) -> str:
    """A DICOM decimal string (at most 16 characters) that is exactly `value`."""
    text = repr(value)
    if len(text) > 16 or float(text) != value:
        raise ValueError(f"{value!r} has no exact decimal string of 16 characters")
    return text


def write_nifti(
    path: Path, array: NDArray[np.int16] | NDArray[np.uint8], scan: Scan, *, flip_rows: bool
) -> None:
    """Write `array` (z, y, x), axes growing in LPS, with the scan's geometry.

    With `flip_rows` the rows are stored from posterior to anterior, as common converters do, with
    the affine for it: the same voxels in another order than that of the DICOM files. SimpleITK
    writes it, so that nibabel, with which voco reads, is tested with files that it did not write.
    """
    x0, y0 = scan.corner_mm
    stored = array[:, ::-1, :] if flip_rows else array
    image = sitk.GetImageFromArray(np.ascontiguousarray(stored))
    image.SetSpacing((scan.pixel_mm, scan.pixel_mm, scan.spacing_mm))
    last_y = float(scan.y_mm[-1])
    image.SetOrigin((x0, last_y if flip_rows else y0, scan.first_z_mm))
    image.SetDirection((1, 0, 0, 0, -1 if flip_rows else 1, 0, 0, 0, 1))
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(path), useCompression=path.suffix == ".gz", compressionLevel=1)
