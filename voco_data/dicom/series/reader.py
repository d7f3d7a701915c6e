"""Read the files of one DICOM series as a volume: order along the normal, geometry, spacing, HU."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from voco_data.dicom.header import Header, parse_frames, read_dataset
from voco_data.dicom.pixels.decode import FrameReader
from voco_data.dicom.pixels.modality import ModalityTransform, parse_modality_transforms
from voco_data.dicom.series.fast_reader import read_fast
from voco_data.dicom.series.slice_order import (
    SAME_POSITION_MM,
    check_uniform_geometry,
    header_flags,
    order_slices,
    slice_depths,
)
from voco_data.dicom.stack_key import TRAIT_NAMES
from voco_data.errors import SeriesRefused
from voco_data.reasons import SKIPPED, Reason
from voco_data.volumes import ClippedVoxels, GapPolicy, Volume

MAX_UNCHECKED_BYTES = 4 * 2**30
"""Of a larger series, the headers are checked before the pixels are read into memory."""


@dataclass(frozen=True, slots=True)
class _Slice:
    """One slice with its pixels still encoded."""

    place: str
    """The place of its file in the series."""
    header: Header
    frames: FrameReader
    modality: ModalityTransform

    def hu(self) -> npt.NDArray[np.int16]:
        with _naming(self.place):
            return self.modality.to_hu(self.frames.read(self.header.frame))


@np.errstate(over="ignore", invalid="ignore")
def read_series(files: Sequence[Path], *, gaps: GapPolicy, min_slices: int) -> Volume:
    """Read the objects of one series into HU, ordered along the slice normal.

    Slices are ordered by position, never by name or instance number. A multi-frame object is as
    many slices as it has frames. Other objects than slices of CT are left out, with a flag.
    Raises SeriesRefused with the reason; that of one file gives its place among `files`.

    The HU may be in memory that the thread reuses once nothing refers to it.
    """
    return read_fast(files, gaps, min_slices) or read_with_pydicom(files, gaps, min_slices)


def read_with_pydicom(files: Sequence[Path], gaps: GapPolicy, min_slices: int) -> Volume:
    """As `read_series`, but pydicom parses every file: the reference for `read_fast`."""
    if sum(path.stat().st_size for path in files if path.exists()) > MAX_UNCHECKED_BYTES:
        headers = []
        for place, path in _places(files):
            with _naming(place):
                headers += parse_frames(read_dataset(path, pixels=False), path)
        _check_headers(headers, gaps, min_slices)
    slices, n_others = _read_slices(files)
    headers = [item.header for item in slices]
    distinct = _distinct_slices(slices)
    stack = order_slices(headers, distinct, gaps, min_slices)
    shape = (len(stack.order), *stack.geometry.shape[1:])
    measured_hu = np.empty(shape, np.int16)
    clipped = ClippedVoxels()
    for index, number in enumerate(stack.order):
        measured_hu[index] = slices[number].hu()
        clipped.add(measured_hu[index])
    flags = [
        *(["dropped_duplicates"] if len(distinct) < len(slices) else []),
        *(["interpolated_slices"] if stack.positions.resampled else []),
        *(["other_objects"] if n_others else []),
        *header_flags(headers),
        *(["excess_pixel_bytes"] if any(s.frames.has_excess_bytes for s in slices) else []),
        *clipped.flags(),
    ]
    return Volume(
        hu=stack.positions.resample(measured_hu),
        geometry=stack.geometry,
        instance_numbers=stack.positions.resample_instance_numbers(
            [headers[n].instance_number for n in stack.order]
        ),
        transfer_syntax="+".join(sorted({h.transfer_syntax for h in headers})),
        flags=tuple(flags),
    )


def _check_headers(headers: Sequence[Header], gaps: GapPolicy, min_slices: int) -> None:
    """Raise SeriesRefused for slices that cannot be one volume."""
    if np.diff(np.sort(slice_depths(headers))).min(initial=np.inf) < SAME_POSITION_MM:
        raise SeriesRefused(
            Reason.DUPLICATE_POSITIONS, "slices share positions, too many to compare them"
        )
    order_slices(headers, list(range(len(headers))), gaps, min_slices)


def _read_slices(files: Sequence[Path]) -> tuple[list[_Slice], int]:
    """The slices in the order of the files, and the number of files that are no slices of CT.

    Raises SeriesRefused if there is no slice, and for a file that cannot be read: it may be one.
    """
    slices: list[_Slice] = []
    others: list[SeriesRefused] = []
    for place, path in _places(files):
        try:
            with _naming(place):
                slices += _parse_file(path, place)
        except SeriesRefused as refusal:
            if refusal.reason == Reason.NOT_MEDICAL:  # what is left of a slice
                raise SeriesRefused(Reason.UNREADABLE, refusal.detail) from refusal
            if refusal.reason not in SKIPPED:
                raise
            others.append(refusal)
    if not slices:
        raise others[0]
    return slices, len(others)


def _places(files: Sequence[Path]) -> Iterator[tuple[str, Path]]:
    """Each file with its place in the series, in words: its name may be one that is hidden."""
    for number, path in enumerate(files, 1):
        yield (f"file {number} of {len(files)}" if len(files) > 1 else ""), path


@contextmanager
def _naming(place: str) -> Iterator[None]:
    """Say in a refusal which file it is about, if the series has several."""
    try:
        yield
    except SeriesRefused as refusal:
        if not place:
            raise
        raise SeriesRefused(refusal.reason, f"{place}: {refusal.detail}") from refusal


def _parse_file(path: Path, place: str) -> Iterator[_Slice]:
    dataset = read_dataset(path, pixels=True)
    headers = parse_frames(dataset, path)
    modalities = parse_modality_transforms(dataset, len(headers))
    frames = FrameReader(dataset, (headers[0].rows, headers[0].columns), len(headers))
    for header, modality in zip(headers, modalities, strict=True):
        yield _Slice(place, header, frames, modality)


def _distinct_slices(slices: Sequence[_Slice]) -> list[int]:
    """Indices of the slices, without those that repeat the position and the pixels of another.

    Raises SeriesRefused(DUPLICATE_POSITIONS) for two slices of one position with unequal pixels.
    """
    headers = [item.header for item in slices]
    check_uniform_geometry(headers)
    depths = slice_depths(headers)
    distinct: list[int] = []
    for index in np.argsort(depths, kind="stable").tolist():
        if distinct and depths[index] - depths[distinct[-1]] < SAME_POSITION_MM:
            last = distinct[-1]
            offset = np.subtract(headers[index].position_mm, headers[last].position_mm)
            is_same_position = float(np.linalg.norm(offset)) < SAME_POSITION_MM * 2
            if not is_same_position or not np.array_equal(slices[index].hu(), slices[last].hu()):
                raise SeriesRefused(
                    Reason.DUPLICATE_POSITIONS,
                    f"two different slices at {depths[index]:.2f} mm along the normal; neither ids "
                    f"nor folders nor {', '.join(TRAIT_NAMES.values())} give whole scans",
                )
            continue
        distinct.append(index)
    return distinct
