"""Pictures of a stored series from the front and from the side, with maps of its organs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from voco_data.store import Record, Store
from voco_models.evaluation import MapPanel, map_plot
from voco_models.localisation import OrganBox

X_LABELS: Final = ("x, mm (to the left)", "y, mm (to the back)")
"""Of the axes along W of the coronal and the sagittal plane: LPS."""
Y_LABEL: Final = "z, mm (to the head)"

Areas = Sequence[npt.NDArray[np.bool_]]
"""Areas of organs in the coronal (C, Z, X) and in the sagittal plane (C, Z, Y)."""


@dataclass(frozen=True, slots=True)
class OrganColumn:
    """What a column of the picture shows over the scan."""

    title: str
    filled: Areas | None = None
    outlined: Areas | None = None
    """Areas whose edges are drawn as lines."""
    boxes: Mapping[str, OrganBox] = field(default_factory=dict)
    """Boxes of organs, by name, drawn as dashed rectangles."""


def draw_organs(
    store: Store,
    record: Record,
    organs: Sequence[str],
    columns: Sequence[OrganColumn],
    *,
    title: str,
) -> str:
    """An SVG with a row for each plane, over the mean of the volume along the collapsed axis.

    Parameters
    ----------
    store, record : the series.
    organs : names of the C organs, in the order of their areas.
    columns : one panel of each in every row.
    title : title of the picture, for readers of screens.
    """
    volume = store.read(record.row).astype(np.float64)
    rows = {}
    for plane, label in enumerate(X_LABELS):
        picture = _to_grey(volume.mean(axis=1 + plane))
        nothing = np.zeros((len(organs), *picture.shape), bool)
        extent = _plane_ends(record.box_low_mm, record.box_high_mm, plane)
        rows[label] = [
            MapPanel(
                column.title,
                picture,
                nothing if column.filled is None else column.filled[plane],
                None if column.outlined is None else column.outlined[plane],
                extent,
                [
                    _plane_ends(box.low_mm, box.high_mm, plane) if box is not None else None
                    for box in map(column.boxes.get, organs)
                ],
            )
            for column in columns
        ]
    names = [organ.replace("_", " ") for organ in organs]
    return map_plot(rows, names, title=title, y_label=Y_LABEL)


def _plane_ends(
    low_mm: Sequence[float], high_mm: Sequence[float], plane: int
) -> tuple[float, float, float, float]:
    """Left, right, lower and upper end of a box (z, y, x) in a plane: 0 coronal, 1 sagittal."""
    (z_low, y_low, x_low), (z_high, y_high, x_high) = low_mm, high_mm
    left, right = ((x_low, x_high), (y_low, y_high))[plane]
    return left, right, z_low, z_high


def _to_grey(image: npt.NDArray[np.float64]) -> npt.NDArray[np.uint8]:
    """Grey values of an image: its range from black to white."""
    low, high = image.min(), image.max()
    grey: npt.NDArray[np.uint8] = np.rint(255 * (image - low) / max(high - low, 1e-9)).astype(
        np.uint8
    )
    return grey
