"""Stored values to HU: slope and intercept or a modality LUT, and padding (PS3.3 C.11.1)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset

from voco_data.dicom.pixels import Stored
from voco_data.dicom.take import Taker
from voco_data.errors import SeriesRefused
from voco_data.reasons import Reason
from voco_data.volume import AIR_HU

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
    """Lowest and highest stored value that says: nothing was measured here."""

    def to_hu(self, stored: Stored) -> npt.NDArray[np.int16]:
        """HU as int16, rounded half to even where the slope is a fraction; padding is air."""
        hu: npt.NDArray[np.number]
        if self.table is not None:
            at = np.clip(stored.astype(np.int64) - self.first, 0, len(self.table) - 1)
            hu = np.rint(self.table[at])
        elif self.slope == 1.0 and self.intercept.is_integer():
            hu = stored.astype(np.int32) + int(self.intercept)
        else:
            hu = np.rint(stored * self.slope + self.intercept)
        limits = np.iinfo(np.int16)
        result = np.clip(hu, limits.min, limits.max).astype(np.int16)
        if self.padding is not None:
            low, high = self.padding
            # Fields of -2000 or -3024 stay what they are here; only what lies above air is lowered.
            padded = (stored >= low) & (stored <= high) & (result > AIR_HU)
            result[padded] = AIR_HU
        return result


def parse_modality(dataset: Dataset, frame: int, frames: int) -> Modality:
    """The transformation of one frame. Raises SeriesRefused: UNREADABLE, or DERIVED if not to HU.

    A missing slope is 1 and a missing intercept 0 (PS3.3 C.8.2.1 requires both; RATIC lacks some).
    """
    take = Taker.of_frame(dataset, frame, frames)
    padding = _padding(dataset, take)
    tables = take.items("ModalityLUTSequence")
    if tables:
        first, table = _table(tables[0], signed=take.integer("PixelRepresentation", 0) == 1)
        return Modality(table=table, first=first, padding=padding)
    slope = take.number("RescaleSlope", 1.0)
    if slope == 0.0:
        raise SeriesRefused(Reason.UNREADABLE, "RescaleSlope is 0")
    return Modality(slope, take.number("RescaleIntercept", 0.0), padding=padding)


def _padding(dataset: Dataset, take: Taker) -> tuple[int, int] | None:
    """PixelPaddingValue and PixelPaddingRangeLimit (PS3.3 C.7.5.1.1.2), with the pixels' sign."""
    if "PixelPaddingValue" not in dataset:
        return None
    bits = take.integer("BitsStored", 16)
    signed = take.integer("PixelRepresentation", 0) == 1

    def stored(value: int) -> int:
        # The tag's sign may differ from that of the pixels; its bits do not.
        value &= (1 << bits) - 1
        return value - (1 << bits) if signed and value >= 1 << (bits - 1) else value

    value = take.integer("PixelPaddingValue", 0)
    ends = sorted((stored(value), stored(take.integer("PixelPaddingRangeLimit", value))))
    return ends[0], ends[1]


def _table(item: Dataset, *, signed: bool) -> tuple[int, Table]:
    """First mapped stored value, and the HU of it and those after it (PS3.3 C.11.1.1)."""
    take = Taker(item)
    kind = take.text("ModalityLUTType").upper()
    if kind != "HU":
        raise SeriesRefused(Reason.DERIVED, "a modality LUT to something else than HU")
    descriptor = take.numbers("LUTDescriptor", 3)
    if descriptor is None:
        raise SeriesRefused(Reason.UNREADABLE, "a modality LUT without a descriptor")
    length, first = int(descriptor[0]) or 65536, int(descriptor[1])
    data = item.get("LUTData")
    values = np.frombuffer(data, "<u2") if isinstance(data, bytes) else np.atleast_1d(data)
    if values.dtype.kind not in "iu" or len(values) != length:
        raise SeriesRefused(Reason.UNREADABLE, f"a modality LUT of {len(values)} for {length}")
    if signed and first >= 1 << 15:
        first -= 1 << 16
    # HU below 0 are written as two's complement of 16 bits, as no unsigned value can hold them.
    return first, values.astype(np.uint16).view(np.int16).astype(np.float64)
