"""Stored values to HU: rescale slope and intercept, modality LUT, padding (PS3.3 C.11.1)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset
from scipy import ndimage

from voco_data.dicom.header import HU_UNITS, unit_name
from voco_data.dicom.pixels.decode import Stored
from voco_data.dicom.values import DatasetValues
from voco_data.errors import SeriesRefused
from voco_data.reasons import Reason
from voco_data.volumes import AIR_HU

Lut = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class ModalityTransform:
    """The modality transformation of one frame."""

    slope: float = 1.0
    intercept: float = 0.0
    lut: Lut | None = None
    """(n,) HU of the stored values from `first_mapped` on, instead of slope and intercept."""
    first_mapped: int = 0
    padding: tuple[int, int] | None = None
    """Lowest and highest stored value of padding pixels, which measure nothing."""

    def reaches_ends(self, lowest: int, highest: int) -> bool:
        """Whether HU of stored values from `lowest` to `highest` may be at an end of int16."""
        if self.lut is not None:
            values = (float(self.lut.min()), float(self.lut.max()))
        else:
            values = (
                lowest * self.slope + self.intercept,
                highest * self.slope + self.intercept,
            )
        limits = np.iinfo(np.int16)
        # Rounding reaches an end from half a unit inside.
        return min(values) < limits.min + 1 or max(values) > limits.max - 1

    def to_hu(self, stored: Stored) -> npt.NDArray[np.int16]:
        """HU of stored values (rows, columns), rounded half to even; padding becomes air."""
        hu: npt.NDArray[np.number]
        if self.lut is not None:
            index = np.clip(stored.astype(np.int64) - self.first_mapped, 0, len(self.lut) - 1)
            hu = np.rint(self.lut[index])
        elif self.slope == 1.0 and self.intercept.is_integer():
            hu = stored.astype(np.int64) + int(self.intercept)
        else:
            with np.errstate(over="ignore"):  # beyond float64, and clipped below
                hu = np.rint(stored * self.slope + self.intercept)
        limits = np.iinfo(np.int16)
        result = np.clip(hu, limits.min, limits.max).astype(np.int16)
        if self.padding is not None:
            low, high = self.padding
            # Only padding above air is changed; that of -2000 or -3024 HU keeps its value.
            is_padding = (stored >= low) & (stored <= high) & (result > AIR_HU)
            if is_padding.any():
                result[_connected_to_border(is_padding)] = AIR_HU
        return result


def parse_modality_transforms(dataset: Dataset, frames: int) -> list[ModalityTransform]:
    """The transformation of each frame. Raises SeriesRefused: UNREADABLE, or DERIVED if not to HU.

    A missing slope is 1 and a missing intercept 0: PS3.3 C.8.2.1 requires both, but RATIC lacks
    some.
    """
    padding = _parse_padding(DatasetValues(dataset))
    return [
        _parse_transform(values, padding) for values in DatasetValues.for_frames(dataset, frames)
    ]


def _parse_transform(values: DatasetValues, padding: tuple[int, int] | None) -> ModalityTransform:
    luts = values.items("ModalityLUTSequence")
    if luts:
        first, lut = _parse_lut(luts[0], signed=values.integer("PixelRepresentation", 0) == 1)
        return ModalityTransform(lut=lut, first_mapped=first, padding=padding)
    slope = values.number("RescaleSlope", 1.0)
    if slope == 0.0:
        raise SeriesRefused(Reason.UNREADABLE, "RescaleSlope is 0")
    return ModalityTransform(slope, values.number("RescaleIntercept", 0.0), padding=padding)


def _connected_to_border(is_padding: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """The components of the mask that touch the image's border. Pixels inside may be measured."""
    labels, _ = ndimage.label(is_padding)
    edges = (labels[0], labels[-1], labels[:, 0], labels[:, -1])
    outside = np.unique(np.concatenate(edges))
    return np.isin(labels, outside[outside > 0])


def _parse_padding(values: DatasetValues) -> tuple[int, int] | None:
    """PixelPaddingValue and PixelPaddingRangeLimit (PS3.3 C.7.5.1.1.2), as stored values.

    None if the value is missing, or if no stored value can equal it.
    """
    allocated = values.integer("BitsAllocated", 16)
    bits = values.integer("BitsStored", allocated)
    signed = values.integer("PixelRepresentation", 0) == 1

    def stored_value(keyword: str) -> int | None:
        if not values.text(keyword):
            return None
        value = values.integer(keyword, 0)
        # The attribute may be unsigned for signed pixels, or signed for unsigned ones.
        if signed and value >= 1 << (allocated - 1):
            value -= 1 << allocated
        elif not signed and value < 0:
            value += 1 << allocated
        low = -(1 << (bits - 1)) if signed else 0
        return value if low <= value < low + (1 << bits) else None

    value = stored_value("PixelPaddingValue")
    limit = stored_value("PixelPaddingRangeLimit")
    if value is None:
        return None
    return (value, value) if limit is None else (min(value, limit), max(value, limit))


def _parse_lut(item: Dataset, *, signed: bool) -> tuple[int, Lut]:
    """First mapped stored value, and the HU of the stored values from it on (PS3.3 C.11.1.1)."""
    values = DatasetValues(item)
    if unit_name(values.text("ModalityLUTType")) not in HU_UNITS:
        raise SeriesRefused(Reason.DERIVED, "a modality LUT to something else than HU")
    descriptor = values.numbers("LUTDescriptor", 3)
    if descriptor is None:
        raise SeriesRefused(Reason.UNREADABLE, "a modality LUT without a descriptor")
    length, first = int(descriptor[0]) or 65536, int(descriptor[1])
    data = item.get("LUTData")
    entries = np.frombuffer(data, "<u2") if isinstance(data, bytes) else np.atleast_1d(data)
    if entries.dtype.kind not in "iu" or len(entries) != length:
        raise SeriesRefused(Reason.UNREADABLE, f"a modality LUT of {len(entries)} for {length}")
    if signed and first >= 1 << 15:
        first -= 1 << 16
    # Entries are unsigned; HU below 0 are written in two's complement of 16 bits.
    return first, entries.astype(np.uint16).view(np.int16).astype(np.float64)
