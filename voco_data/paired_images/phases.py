"""Projections of other series of a study as second images of its series.

Another series is often another phase of contrast, but may be the same scan in another
reconstruction, so these images are named for what they are: projections of another series.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from voco_data.paired_images.map_area import (
    COLUMN_AXES,
    PLANES,
    MapArea,
    MapImage,
    Plane,
    average_onto,
)
from voco_data.paired_images.placement import MIN_COVERAGE
from voco_data.paired_images.study_frames import StoredSeries
from voco_data.store import Store
from voco_data.volumes import Voxels

ALONE = "no other series in its study"
OTHER_FRAME = "only other series of another frame of reference"
SAME_VOXELS = "only copies of itself in its study"
NOT_ON_MAP = "no other series covers a quarter of a map"


def pair_phases(
    store: Store, series: Sequence[StoredSeries]
) -> Iterator[tuple[StoredSeries, Mapping[Plane, MapImage] | str]]:
    """The images of each series by plane, or why it has none.

    An image is the mean of the other series' stored values along the axis, over its own box, from 0
    to 1 in the store's window. Of several series, the one that covers most of the map is taken; of
    equal ones the first row.
    """
    by_study: defaultdict[tuple[str, str], list[StoredSeries]] = defaultdict(list)
    for one in series:
        by_study[one.line["patient_id"], one.frame.study_uid].append(one)
    for one in series:
        others = [i for i in by_study[one.line["patient_id"], one.frame.study_uid] if i is not one]
        of_frame = [other for other in others if other.frame == one.frame]
        content = one.line["content_digest"]
        unlike = [other for other in of_frame if other.line["content_digest"] != content]
        if not others:
            yield one, ALONE
        elif not of_frame:
            yield one, OTHER_FRAME
        elif not unlike:
            yield one, SAME_VOXELS
        else:
            yield one, _project_best(store, one, unlike) or NOT_ON_MAP


def _project_best(
    store: Store, one: StoredSeries, others: Sequence[StoredSeries]
) -> dict[Plane, MapImage]:
    """The images that cover most of each map; none that covers less than a quarter."""
    images = {}
    for plane in PLANES:
        area = MapArea.of_series(store, one.line, plane)
        areas = [MapArea.of_series(store, other.line, plane) for other in others]
        best = max(range(len(others)), key=lambda i: area.share_in(areas[i]))
        values = project_mean(store, store.read(int(others[best].line["row"])), plane)
        measured = np.ones(values.shape, np.bool_)
        image = average_onto(area, values, measured, areas[best].rows_mm, areas[best].columns_mm)
        if image.coverage >= MIN_COVERAGE:
            images[plane] = image
    return images


def project_mean(store: Store, volume: Voxels, plane: Plane) -> npt.NDArray[np.float64]:
    """The mean of stored voxels (Z, Y, X) along the axis that `plane` collapses, from 0 to 1."""
    window = store.spec.window
    collapsed = 3 - COLUMN_AXES[plane]
    mean = volume.mean(axis=collapsed, dtype=np.float64)
    projected: npt.NDArray[np.float64] = (mean - window.lowest) / (window.highest - window.lowest)
    return projected
