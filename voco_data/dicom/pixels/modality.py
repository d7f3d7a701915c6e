"""Stored values to HU: slope and intercept or a modality LUT, and padding (PS3.3 C.11.1)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset
from scipy import ndimage

from voco_data.dicom.pixels.decode import Stored
from voco_data.dicom.values import DatasetValues
from voco_data.errors import SeriesRefused
from voco_data.reasons import Reason
from voco_data.volumes import AIR_HU

Table = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Modality:
    """The modality transformation of one frame."""

    slope: float = 1.0
    intercept: float = 0.0
    table: Table | None = None
    """HU of stored value `first` and those after it, instead of slope and intercept."""
    first: int = 0
    padding: tuple[int, int] | None = None
    """Lowest and highest stored value that marks pixels without a measurement."""

    def to_hu(self, stored: Stored) -> npt.NDArray[np.int16]:
        """HU as int16, rounded half to even where the slope is a fraction; padding is air."""
        hu: npt.NDArray[np.number]
        if self.table is not None:
            index = np.clip(stored.astype(np.int64) - self.first, 0, len(self.table) - 1)
            hu = np.rint(self.table[index])
        elif self.slope == 1.0 and self.intercept.is_integer():
            hu = stored.astype(np.int64) + int(self.intercept)
        else:
            hu = np.rint(stored * self.slope + self.intercept)
        limits = np.iinfo(np.int16)
        result = np.clip(hu, limits.min, limits.max).astype(np.int16)
        if self.padding is not None:
            low, high = self.padding
            # Padding of -2000 or -3024 keeps its value here; only padding above air is lowered.
            is_padding = (stored >= low) & (stored <= high) & (result > AIR_HU)
            if is_padding.any():
                result[_connected_to_border(is_padding)] = AIR_HU
        return result


def parse_modalities(dataset: Dataset, frames: int) -> list[Modality]:
    """The transformation of each frame. Raises SeriesRefused: UNREADABLE, or DERIVED if not to HU.

    A missing slope is 1 and a missing intercept 0 (PS3.3 C.8.2.1 requires both; RATIC lacks some).
    """
    padding = _padding(DatasetValues(dataset))
    return [_modality(values, padding) for values in DatasetValues.of_frames(dataset, frames)]


def _modality(values: DatasetValues, padding: tuple[int, int] | None) -> Modality:
    tables = values.items("ModalityLUTSequence")
    if tables:
        first, table = _table(tables[0], signed=values.integer("PixelRepresentation", 0) == 1)
        return Modality(table=table, first=first, padding=padding)
    slope = values.number("RescaleSlope", 1.0)
    if slope == 0.0:
        raise SeriesRefused(Reason.UNREADABLE, "RescaleSlope is 0")
    return Modality(slope, values.number("RescaleIntercept", 0.0), padding=padding)


def _connected_to_border(is_padding: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """The padding that reaches the image's border: pixels inside may have measured that value."""
    labels, _ = ndimage.label(is_padding)
    edges = (labels[0], labels[-1], labels[:, 0], labels[:, -1])
    outside = np.unique(np.concatenate(edges))
    return np.isin(labels, outside[outside > 0])


def _padding(values: DatasetValues) -> tuple[int, int] | None:
    """PixelPaddingValue and PixelPaddingRangeLimit (PS3.3 C.7.5.1.1.2), with the pixels' sign.

    None where there is none, or one that no stored value can have.
    """
    allocated = values.integer("BitsAllocated", 16)
    bits = values.integer("BitsStored", allocated)
    signed = values.integer("PixelRepresentation", 0) == 1

    def stored_value(keyword: str) -> int | None:
        if not values.text(keyword):
            return None
        value = values.integer(keyword, 0)
        # The tag's sign may differ from that of the pixels; its bits do not.
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


def _table(item: Dataset, *, signed: bool) -> tuple[int, Table]:
    """First mapped stored value, and the HU of it and those after it (PS3.3 C.11.1.1)."""
    values = DatasetValues(item)
    if values.text("ModalityLUTType").upper() != "HU":
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
    # HU below 0 are written as two's complement of 16 bits: entries are unsigned.
    return first, entries.astype(np.uint16).view(np.int16).astype(np.float64)
