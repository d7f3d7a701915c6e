"""Small files that claim, or expand to, gigabytes: masks and images of the series of `ct_files`."""

from __future__ import annotations

import bz2
import gzip
import io
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

SHAPE = (24, 60, 60)
"""Slices, rows and columns of the series that the masks belong to."""
MEBIBYTE = 2**20


def gzip_zeros(start: bytes, mebibytes: int) -> bytes:
    """A gzip stream of `start` and zeros, of which a mebibyte takes a kilobyte."""
    stream = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    head = stream.compress(start) + stream.flush(zlib.Z_FULL_FLUSH)
    block = stream.compress(bytes(MEBIBYTE)) + stream.flush(zlib.Z_FULL_FLUSH)  # can be repeated
    header = b"\x1f\x8b\x08\0\0\0\0\0\0\xff"
    return header + head + block * mebibytes + stream.flush() + bytes(8)


def _nrrd_header(encoding: str, sizes: str = "60 60 24") -> bytes:
    return (
        f"NRRD0004\ntype: uchar\ndimension: 3\nspace: left-posterior-superior\nsizes: {sizes}\n"
        f"space directions: (2,0,0) (0,2,0) (0,0,5)\nencoding: {encoding}\n"
        "space origin: (-60,-60,-100)\n\n"
    ).encode()


def nrrd_that_expands(path: Path) -> None:
    """13 GB of voxels behind a header of 86,400."""
    path.write_bytes(_nrrd_header("gzip") + gzip_zeros(b"", 13_000))


def nrrd_that_claims(path: Path) -> None:
    """A header of 13 GB of voxels, and that many voxels."""
    path.write_bytes(_nrrd_header("gzip", "1000 1000 13000") + gzip_zeros(b"", 13_000))


def nrrd_in_bzip2(path: Path) -> None:
    """Streams of bzip2, 64 MB of zeros each."""
    path.write_bytes(_nrrd_header("bzip2") + bz2.compress(bytes(64 * MEBIBYTE)))


def nifti_header(
    shape: tuple[int, int, int] = SHAPE, *, dtype: type = np.uint8, offset: int = 352
) -> bytes:
    """A header of NIfTI-1 on the grid of the series, and its four bytes of no extension."""
    affine = np.array([[-2, 0, 0, 60], [0, -2, 0, 60], [0, 0, 5, -100], [0, 0, 0, 1.0]])
    header = nibabel.Nifti1Header()
    header.set_data_shape(shape[::-1])
    header.set_data_dtype(dtype)
    header.set_sform(affine, code=1)
    header["magic"], header["vox_offset"] = b"n+1", offset
    return bytes(header.binaryblock) + bytes(4)


def nifti_that_claims(path: Path) -> None:
    """4.3 GB of voxels, all of them there."""
    path.write_bytes(gzip_zeros(nifti_header((536, 2000, 2000), dtype=np.uint16), 4_100))


def nifti_that_goes_on(path: Path) -> None:
    """4.3 GB after the last voxel."""
    path.write_bytes(gzip_zeros(nifti_header(), 4_100))


def nifti_that_begins_late(path: Path) -> None:
    """4 GB before the first voxel."""
    path.write_bytes(gzip_zeros(nifti_header(offset=4_000 * MEBIBYTE), 4_100))


def nifti_with_an_extension(path: Path) -> None:
    """A header extension of 2 GB before the first voxel."""
    start = nifti_header(offset=2_000 * MEBIBYTE)[:-4] + b"\1\0\0\0"
    path.write_bytes(gzip_zeros(start + struct.pack("<ii", 1_999 * MEBIBYTE, 6), 2_100))


def nifti_of_one_plane(path: Path) -> None:
    """One plane of 2**30 voxels."""
    path.write_bytes(gzip_zeros(nifti_header((1, 32_767, 32_767)), 1_024))


def _segmentation(series_uid: str, frames: int) -> Dataset:
    item, reference, segment = Dataset(), Dataset(), Dataset()
    reference.SeriesInstanceUID = series_uid
    segment.SegmentNumber, segment.SegmentLabel = 1, "Liver"
    position, identity = Dataset(), Dataset()
    position.ImagePositionPatient = [-60, -60, -100]
    identity.ReferencedSegmentNumber = 1
    item.PlanePositionSequence = Sequence([position])
    item.SegmentIdentificationSequence = Sequence([identity])
    shared, orientation, measures = Dataset(), Dataset(), Dataset()
    orientation.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    measures.PixelSpacing, measures.SpacingBetweenSlices = [2, 2], 5
    shared.PlaneOrientationSequence = Sequence([orientation])
    shared.PixelMeasuresSequence = Sequence([measures])
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.66.4"
    dataset.SOPInstanceUID = "1.2.3.99"
    dataset.Modality, dataset.SegmentationType = "SEG", "BINARY"
    dataset.Rows, dataset.Columns, dataset.NumberOfFrames = 60, 60, frames
    dataset.BitsAllocated = dataset.BitsStored = dataset.SamplesPerPixel = 1
    dataset.HighBit = dataset.PixelRepresentation = 0
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.ReferencedSeriesSequence = Sequence([reference])
    dataset.SegmentSequence = Sequence([segment])
    dataset.SharedFunctionalGroupsSequence = Sequence([shared])
    dataset.PerFrameFunctionalGroupsSequence = Sequence([item])
    dataset.PixelData = bytes(450)
    return dataset


def _save(dataset: Dataset, path: Path) -> None:
    dataset.save_as(path, enforce_file_format=True)


def seg_of_one_frame(path: Path, series_uid: str) -> None:
    """A mask as it should be, of no voxel."""
    _save(_segmentation(series_uid, 1), path)


def seg_of_five_million_frames(path: Path, series_uid: str) -> None:
    """A header that claims them."""
    _save(_segmentation(series_uid, 5_000_000), path)


def seg_with_a_million_groups(path: Path, series_uid: str) -> None:
    """Empty functional groups of a million frames, and 20 frames."""
    dataset = _segmentation(series_uid, 20)
    buffer = io.BytesIO()
    del dataset.PerFrameFunctionalGroupsSequence
    dataset.save_as(buffer, enforce_file_format=True)
    data = buffer.getvalue()
    items = b"\xfe\xff\x00\xe0\0\0\0\0" * 1_000_000
    groups = struct.pack("<HH2sHI", 0x5200, 0x9230, b"SQ", 0, len(items)) + items
    at = data.index(b"\xe0\x7f\x10\x00O")
    path.write_bytes(data[:at] + groups + data[at:])


def seg_that_inflates(path: Path, series_uid: str) -> None:
    """A deflated data set whose pixel data have 400 MB."""
    dataset = _segmentation(series_uid, 1)
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    dataset.PixelData = bytes(400 * MEBIBYTE)
    _save(dataset, path)


def seg_with_a_hole(path: Path, series_uid: str) -> None:
    """Pixel data of 4 GB, in a sparse file."""
    _save(_segmentation(series_uid, 1), path)
    data = path.read_bytes()
    length = 2**32 - 2**20
    with path.open("wb") as file:
        file.write(data[: -450 - 4] + length.to_bytes(4, "little"))
        file.truncate(len(data) - 450 + length)


def structure_set(path: Path, points: int) -> None:
    """An RTSTRUCT with one contour of that many points, in implicit VR."""
    contour = _implicit(0x3006, 0x0050, b"1.5\\2.5\\3.5\\" * (points - 1) + b"1.5\\2.5\\3.5 ")
    for group, element in ((0x3006, 0x0040), (0x3006, 0x0039)):
        contour = _implicit(group, element, b"\xfe\xff\x00\xe0" + _length(contour) + contour)
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    dataset.SOPClassUID, dataset.Modality = "1.2.840.10008.5.1.4.1.1.481.3", "RTSTRUCT"
    dataset.SOPInstanceUID = "1.2.3.98"
    _save(dataset, path)
    with path.open("ab") as file:
        file.write(contour)


def _implicit(group: int, element: int, value: bytes) -> bytes:
    return struct.pack("<HH", group, element) + _length(value) + value


def _length(value: bytes) -> bytes:
    return len(value).to_bytes(4, "little")


MASKS: dict[str, Callable[[Path], None]] = {
    "expands_seg.nrrd": nrrd_that_expands,
    "claims_seg.nrrd": nrrd_that_claims,
    "bzip2_seg.nrrd": nrrd_in_bzip2,
    "claims_mask.nii.gz": nifti_that_claims,
    "goes_on_mask.nii.gz": nifti_that_goes_on,
    "late_mask.nii.gz": nifti_that_begins_late,
    "extension_mask.nii.gz": nifti_with_an_extension,
    "plane_mask.nii.gz": nifti_of_one_plane,
}
"""Bombs by the names of files that make them masks."""
SEGMENTATIONS: dict[str, Callable[[Path, str], None]] = {
    "frames.dcm": seg_of_five_million_frames,
    "groups.dcm": seg_with_a_million_groups,
    "deflated.dcm": seg_that_inflates,
    "hole.dcm": seg_with_a_hole,
}
"""Bombs as DICOM SEG, which name their series by its UID."""


def zip_bomb(path: Path) -> None:
    """A ZIP archive whose only member has 256 MB."""
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("zeros.bin", "w", force_zip64=True) as file,
    ):
        for _ in range(256):
            file.write(bytes(MEBIBYTE))


def gzip_bomb(path: Path) -> None:
    """4 GB of zeros."""
    path.write_bytes(gzip_zeros(b"", 4_096))


def write_nrrd(
    path: Path, labels: npt.NDArray[np.uint16], encoding: str, line_end: str, change: int
) -> None:
    """`labels` (slice, row, column), big-endian, with `change` voxels more or fewer at the end."""
    voxels = np.append(labels.ravel(), labels.ravel()[:1])[: labels.size + change]
    data = voxels.astype(">u2").tobytes()
    match encoding:
        case "gzip":
            data = gzip.compress(data)
        case "bzip2":
            data = bz2.compress(data)
        case "ascii":
            data = " ".join(map(str, voxels.tolist())).encode()
    header = _nrrd_header(encoding).replace(b"uchar\n", b"ushort\nendian: big\n")
    path.write_bytes(header.replace(b"\n", line_end.encode()) + data)
