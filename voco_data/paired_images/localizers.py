"""Scouts of a study as second images of its series.

A scout is a projection by X-rays, made before the scan (ImageType value 3 is LOCALIZER, PS3.3
C.8.2.1.1.1). Its rays diverge across the table, so what lies off the isocentre is magnified there;
it is placed as if they were parallel. Along the table it is true to scale.
"""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from voco_data.dicom import (
    FrameOfReference,
    read_frame_of_reference,
    read_planar_geometry,
    read_planar_image,
)
from voco_data.errors import InputError, SeriesRefused
from voco_data.ingest import SourceArchive
from voco_data.paired_images.image_files import GreyImage, max_pixels
from voco_data.paired_images.map_area import PLANES, MapArea, MapImage, Plane
from voco_data.paired_images.placement import place, shown_plane
from voco_data.paired_images.study_frames import StoredSeries
from voco_data.reasons import Reason
from voco_data.store import Store

log = logging.getLogger(__name__)

NO_LOCALIZER = "no localizer in its study"
OTHER_FRAME = "only localizers of another frame of reference"
NOT_ON_MAP = "no readable localizer covers a quarter of a map"
NO_PLACE = "localizers without position, orientation or spacing"
NO_PLANE = "localizers that are axial or oblique"
UNREADABLE = "localizers that cannot be read"


@dataclass(frozen=True, slots=True)
class Localizer:
    """A scout whose place is known. Its pixels are read when they are needed."""

    path: Path
    plane: Plane
    frame: FrameOfReference


def find_localizers(archive: SourceArchive) -> tuple[list[Localizer], Counter[str]]:
    """The scouts of an archive, by path, and why others are left out."""
    found: list[Localizer] = []
    left_out: Counter[str] = Counter()
    for path in archive.other_files(Reason.LOCALIZER):
        try:
            geometry, frame = read_planar_geometry(path), read_frame_of_reference(path)
        except SeriesRefused as refusal:
            log.info("a localizer is left out: %s", refusal.detail)
            left_out[UNREADABLE] += 1
            continue
        plane = None if geometry is None else shown_plane(geometry)
        if plane is None:
            left_out[NO_PLACE if geometry is None else NO_PLANE] += 1
        else:
            found.append(Localizer(path, plane, frame))
    return found, left_out


def pair_localizers(
    store: Store, series: Sequence[StoredSeries], localizers: Sequence[Localizer]
) -> Iterator[tuple[StoredSeries, Mapping[Plane, MapImage] | str]]:
    """The images of each series by plane, or why it has none.

    Of several scouts of one plane, the one that covers most of the map is taken; of equal ones the
    first.
    """
    by_study: defaultdict[str, list[Localizer]] = defaultdict(list)
    for localizer in localizers:
        by_study[localizer.frame.study_uid].append(localizer)
    for one in series:
        of_study = by_study[one.frame.study_uid]
        usable = [localizer for localizer in of_study if localizer.frame == one.frame]
        if not of_study:
            yield one, NO_LOCALIZER
        elif not usable:
            yield one, OTHER_FRAME
        else:
            images = {
                plane: image
                for plane in PLANES
                if (image := _best_image(MapArea.of_series(store, one.line, plane), usable))
            }
            yield one, images or NOT_ON_MAP


def _best_image(area: MapArea, localizers: Sequence[Localizer]) -> MapImage | None:
    placed = []
    for localizer in localizers:
        if localizer.plane == area.plane:
            try:
                placed.append(place(_read_grey(localizer.path, max_pixels(area.shape)), area))
            except SeriesRefused as refusal:
                log.warning("a localizer cannot be read: %s", refusal.detail)
            except InputError as error:  # too little of the map, or no contrast on it
                log.info("a localizer is not used: %s", error)
    return max(placed, key=lambda image: image.coverage, default=None)


def _read_grey(path: Path, most_pixels: int) -> GreyImage:
    """A scout, to be scaled by percentiles: its window is chosen for a person who plans a scan."""
    image = read_planar_image(path, most_pixels)
    return GreyImage(image.values, image.is_measured, None, image.inverted, image.geometry)
