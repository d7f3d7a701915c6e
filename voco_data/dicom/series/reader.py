"""From the objects of one series to a volume: order along the normal, geometry, gaps, HU."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from voco_data.dicom.header import Header, parse_frames, read_dataset
from voco_data.dicom.pixels.decode import PixelReader
from voco_data.dicom.pixels.modality import Modality, parse_modalities
from voco_data.dicom.series.fast_reader import read_fast
from voco_data.dicom.series.slice_order import (
    SAME_POSITION_MM,
    check_alike,
    depths_of,
    header_flags,
    stack_of,
)
from voco_data.errors import SeriesRefused
from voco_data.reasons import SKIPPED, Reason
from voco_data.volumes.slice_spacing import GapPolicy
from voco_data.volumes.volume import Volume

BYTES_AT_ONCE = 4 * 2**30
"""Larger series are judged by their headers before any pixel is read."""


@dataclass(frozen=True, slots=True)
class _Slice:
    """One slice, its pixels still encoded."""

    header: Header
    pixels: PixelReader
    modality: Modality

    def hu(self) -> npt.NDArray[np.int16]:
        return self.modality.to_hu(self.pixels.stored(self.header.frame))


def read_series(files: Sequence[Path], *, gaps: GapPolicy, min_slices: int) -> Volume:
    """Read the objects of one series into HU, ordered along the slice normal.

    Slices are ordered by position, never by name or instance number. A multi-frame object is as
    many slices as it has frames. Objects among the files that are no slices of CT are left out,
    with a flag. Raises SeriesRefused with the reason.

    The HU may lie in the memory of `voco_data.volumes.buffers`, which is used again once nothing
    refers to them.
    """
    return read_fast(files, gaps, min_slices) or read_thoroughly(files, gaps, min_slices)


def read_thoroughly(files: Sequence[Path], gaps: GapPolicy, min_slices: int) -> Volume:
    """The same with every file parsed by pydicom: the reference, and the way of all odd series."""
    if sum(path.stat().st_size for path in files if path.exists()) > BYTES_AT_ONCE:
        _judge_headers([h for path in files for h in _headers(path)], gaps, min_slices)
    slices, others = _read(files)
    headers = [item.header for item in slices]
    kept = _distinct(slices)
    stack = stack_of(headers, kept, gaps, min_slices)
    shape = (len(stack.order), *stack.geometry.shape[1:])
    measured = np.empty(shape, np.int16)
    for index, number in enumerate(stack.order):
        measured[index] = slices[number].hu()
    flags = [
        *(["dropped_duplicates"] if len(kept) < len(slices) else []),
        *(["interpolated_slices"] if stack.even.resampled else []),
        *(["other_objects"] if others else []),
        *header_flags(headers),
    ]
    return Volume(
        hu=stack.even.resample(measured),
        geometry=stack.geometry,
        instance_numbers=stack.even.pick([headers[n].instance_number for n in stack.order]),
        transfer_syntax="+".join(sorted({h.transfer_syntax for h in headers})),
        flags=tuple(flags),
    )


def _judge_headers(headers: Sequence[Header], gaps: GapPolicy, min_slices: int) -> None:
    """Refuse what cannot be one volume, before its pixels fill the memory."""
    if np.diff(np.sort(depths_of(headers))).min(initial=np.inf) < SAME_POSITION_MM:
        raise SeriesRefused(
            Reason.DUPLICATE_POSITIONS, "slices share positions, too many to compare them"
        )
    stack_of(headers, list(range(len(headers))), gaps, min_slices)


def _headers(path: Path) -> list[Header]:
    return parse_frames(read_dataset(path, pixels=False), path)


def _read(files: Sequence[Path]) -> tuple[list[_Slice], int]:
    """Slices in the files' order, and how many files are something else. Raises if all are."""
    slices: list[_Slice] = []
    others: list[SeriesRefused] = []
    for path in files:
        try:
            slices += _slices(path)
        except SeriesRefused as refusal:
            if refusal.reason not in SKIPPED:
                raise
            others.append(refusal)
    if not slices:
        raise others[0]
    return slices, len(others)


def _slices(path: Path) -> Iterator[_Slice]:
    dataset = read_dataset(path, pixels=True)
    headers = parse_frames(dataset, path)
    modalities = parse_modalities(dataset, len(headers))
    pixels = PixelReader(dataset, (headers[0].rows, headers[0].columns), len(headers))
    for header, modality in zip(headers, modalities, strict=True):
        yield _Slice(header, pixels, modality)


def _distinct(slices: Sequence[_Slice]) -> list[int]:
    """Indices without slices that are equal in position and pixels.

    Raises DUPLICATE_POSITIONS for those equal in position alone.
    """
    headers = [item.header for item in slices]
    check_alike(headers)
    depths = depths_of(headers)
    kept: list[int] = []
    for index in np.argsort(depths, kind="stable").tolist():
        if kept and depths[index] - depths[kept[-1]] < SAME_POSITION_MM:
            last = kept[-1]
            apart = np.subtract(headers[index].position_mm, headers[last].position_mm)
            same = float(np.linalg.norm(apart)) < SAME_POSITION_MM * 2
            if not same or not np.array_equal(slices[index].hu(), slices[last].hu()):
                raise SeriesRefused(
                    Reason.DUPLICATE_POSITIONS,
                    f"two different slices at {depths[index]:.2f} mm along the normal",
                )
            continue
        kept.append(index)
    return kept
