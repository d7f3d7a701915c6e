"""Typed, checked values of a data set, or of one frame of a multi-frame object."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from voco_data.errors import SeriesRefused
from voco_data.reasons import Reason

T = TypeVar("T")

MACROS = (
    "CTImageFrameTypeSequence",
    "FrameContentSequence",
    "PixelMeasuresSequence",
    "PixelValueTransformationSequence",
    "PlaneOrientationSequence",
    "PlanePositionSequence",
    "SegmentIdentificationSequence",
)
"""Functional group macros (PS3.3 C.7.6.16.2) with attributes of a single-frame image."""

CONVERTED_ATTRIBUTES = "UnassignedPerFrameConvertedAttributesSequence"
"""Attributes of the images that an object was converted from (PS3.3 C.7.6.16.2.25.2)."""


class DatasetValues:
    """The values of a data set by keyword.

    A missing value gives a default; a malformed one raises SeriesRefused(UNREADABLE). `dataset` and
    `groups`, the functional groups of frame `frame`, are searched as `for_frames` says.
    """

    def __init__(
        self,
        dataset: Dataset,
        groups: Sequence[Dataset] = (),
        frame: int = 0,
        *,
        has_own_group: bool = False,
    ) -> None:
        self._dataset = dataset
        self._groups = groups
        self._frame = frame
        self._has_own_group = has_own_group

    @classmethod
    def for_frames(cls, dataset: Dataset, frames: int) -> list[DatasetValues]:
        """The values of each of `frames` frames.

        A value is searched in the frame's functional groups, then in the shared ones, then at the
        top level of the data set. Raises SeriesRefused(UNREADABLE) if the functional groups
        describe another number of frames.
        """
        top = cls(dataset)
        per_frame = top.items("PerFrameFunctionalGroupsSequence")
        shared = top.items("SharedFunctionalGroupsSequence")[:1]
        if per_frame and len(per_frame) != frames:
            raise SeriesRefused(
                Reason.UNREADABLE,
                f"NumberOfFrames is {frames}, and {len(per_frame)} frames are described",
            )
        return [
            cls(
                dataset,
                [*per_frame[frame : frame + 1], *shared],
                frame,
                has_own_group=bool(per_frame),
            )
            for frame in range(frames)
        ]

    def has(self, keyword: str) -> bool:
        """Whether the top level of the data set has the attribute."""
        return keyword in self._dataset

    def describe_missing_matrix(self) -> str:
        """Say that an image lacks Rows or Columns, or ends before them; tags ascend (PS3.5 7.1)."""
        tag = tag_for_keyword("Columns")
        assert tag is not None
        if max(self._dataset.keys(), default=tag) <= tag:
            return "a CT image that ends before its rows and columns"
        missing = [name for name in ("Rows", "Columns") if not self.has(name)]
        return f"no {', '.join(missing)} in the header"

    def is_of_frame(self, keyword: str) -> bool:
        """Whether the functional groups of this frame alone have the attribute."""
        return self._has_own_group and any(
            keyword in item
            for macro in MACROS
            for item in DatasetValues(self._groups[0]).items(macro)[:1]
        )

    def text(self, keyword: str) -> str:
        """The value as text, stripped; empty if it is missing. Backslashes separate values."""
        value = self._find(keyword)
        if isinstance(value, MultiValue):
            return "\\".join(str(item).strip() for item in value)
        return "" if value is None else str(value).strip()

    def codes(self, keyword: str) -> set[str]:
        """The values of a multi-valued code string, in upper case, blanks as _."""
        value = self._find(keyword)
        if value is None:
            return set()
        values = [value] if isinstance(value, str) else self._convert(keyword, value, list)
        return {str(item).strip().upper().replace(" ", "_") for item in values}

    def integer(self, keyword: str, default: int) -> int:
        """The value as an integer."""
        value = self._find(keyword)
        return default if value in (None, "") else self._convert(keyword, value, int)

    def number(self, keyword: str, default: float) -> float:
        """The value as a finite number."""
        numbers = self.numbers(keyword, 1)
        return default if numbers is None else numbers[0]

    def numbers(self, keyword: str, count: int) -> tuple[float, ...] | None:
        """Exactly `count` finite numbers; None if the value is missing."""
        value = self._find(keyword)
        if value is None or value == "":
            return None
        items = value if count > 1 else [value]
        numbers: tuple[float, ...] = self._convert(
            keyword, items, lambda items: tuple(float(item) for item in items)
        )
        if len(numbers) != count or not all(math.isfinite(n) for n in numbers):
            raise SeriesRefused(Reason.BAD_GEOMETRY, f"{keyword} is {numbers}")
        return numbers

    def items(self, keyword: str) -> list[Dataset]:
        """The items of a sequence at the top level; empty if it is missing."""
        value = self._get(self._dataset, keyword)
        items: list[Dataset] = [] if value is None else self._convert(keyword, value, list)
        if not all(isinstance(item, Dataset) for item in items):
            raise SeriesRefused(Reason.UNREADABLE, f"{keyword} is not a sequence")
        return items

    def instance_number(self) -> int:
        """InstanceNumber; of a frame, that of the image it was converted from, else its index + 1.

        -1 if it is missing or malformed: no slice is refused for it, as it gives no order.
        """
        try:
            if not self._groups:
                return self.integer("InstanceNumber", -1)
            for converted in DatasetValues(self._groups[0]).items(CONVERTED_ATTRIBUTES):
                return DatasetValues(converted).integer("InstanceNumber", self._frame + 1)
        except SeriesRefused:
            return -1
        return self._frame + 1

    def _find(self, keyword: str) -> Any:
        """The value in the functional groups or at the top level; None if it is missing."""
        for group in self._groups:
            for macro in MACROS:
                for item in DatasetValues(group).items(macro)[:1]:
                    if keyword in item:
                        return self._get(item, keyword)
        return self._get(self._dataset, keyword)

    @staticmethod
    def _get(dataset: Dataset, keyword: str) -> Any:
        try:
            return dataset.get(keyword)
        except Exception as error:  # converting a hostile value may raise anything
            raise SeriesRefused(Reason.UNREADABLE, f"{keyword} does not parse") from error

    @staticmethod
    def _convert(keyword: str, value: Any, convert: Callable[[Any], T]) -> T:
        try:
            return convert(value)
        except Exception as error:  # a hostile value may be of any type
            raise SeriesRefused(Reason.UNREADABLE, f"{keyword} is malformed") from error
