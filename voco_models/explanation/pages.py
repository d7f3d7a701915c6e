"""The page of an explanation: tables, curves over slices, and maps over pictures.

It loads nothing and has no scripts. Pictures are as those of `voco predict`: axial slices of the
stored volume with anterior up and the patient's right on the left.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from torch import Tensor

from voco_data.qc import Section, html
from voco_data.storage import atomic
from voco_data.store import Record
from voco_data.volumes import Quantisation, Voxels
from voco_models.evaluation import Line, line_plot
from voco_models.explanation.intervals import FloatArray
from voco_models.explanation.overlay import blend, spread_map
from voco_models.explanation.place_maps import MapKind
from voco_models.explanation.pointing import maximum_of
from voco_models.prediction import (
    NOTICE,
    box_size_mm,
    data_uri,
    slice_z_mm,
    stored_slice,
    to_grey,
)

TOP_SLICES = 2
"""Slices that are shown of each map: those with its largest values."""
WIDTH_PX = 230.0
MAP_TEXTS: dict[MapKind, str] = {
    "attention": "attention to places, the mean of all models, divided by its largest value",
    "grad_cam": "Grad-CAM of the log-odds of an injury, the mean of all models, divided by its "
    "largest value",
}
OCCLUSION_TEXT = (
    "Probability of an injury, less that without the slice, in whose place is the mean of the "
    "slices beside it. Above 0, the slice speaks for an injury."
)
Curve = npt.NDArray[np.floating[Any]]
Range = tuple[float, float]

_ENVIRONMENT = Environment(
    loader=PackageLoader("voco_models.explanation"), autoescape=True, undefined=StrictUndefined
)


@dataclass(frozen=True, slots=True)
class PictureView:
    """What pictures of a series are drawn from."""

    volume: Voxels
    """Stored voxels (Z, Y, X): z grows to superior, y to posterior, x to the patient's left."""
    quantisation: Quantisation
    z_range: Range
    """The part of the volume that the classifier sees; see `VolumeView.shown_range`."""
    plane_range: tuple[Range, ...]
    """See `VolumeView.plane_range`."""


@dataclass(frozen=True, slots=True)
class SeriesPage:
    """One series of the page."""

    record: Record
    facts: Sequence[tuple[str, str]]
    view: PictureView
    slices_z_mm: FloatArray
    """LPS z of the middles of the classifier's slices, (Z,)."""
    attention: Mapping[str, Curve]
    """Weights of slices (Z,), by group or region; may be empty."""
    occlusion: Mapping[str, Curve]
    """Effects of slices (Z,) by group, of occlusion by neighbours."""
    maps: Mapping[str, Tensor]
    """(Z, h, w) by group or region."""
    boxes: Mapping[str, Tensor]
    """Boxes (R, 2, 3) of the same names, as in `SeriesGeometry`, of the stored volume."""


@dataclass(frozen=True, slots=True)
class Table:
    """A section of the page with one table."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str]


def write_page(
    path: Path, tables: Sequence[Table], series: Sequence[SeriesPage], kind: MapKind
) -> None:
    """Write the page to `path`."""
    sections = [
        Section(
            table.title,
            _render("table.html", columns=table.columns, rows=table.rows, notes=table.notes),
        )
        for table in tables
    ]
    for one in series:
        title = f"Patient {one.record.patient_id}, series {one.record.series_uid}"
        sections.append(Section(title, _series(one, kind)))
    atomic.write_text(path, html.render_page("Explanation", sections, lead=NOTICE))


def _series(series: SeriesPage, kind: MapKind) -> str:
    name = f"{series.record.patient_id} {series.record.series_uid}"
    charts = [
        (
            "Occlusion of slices",
            OCCLUSION_TEXT,
            _curves(series, series.occlusion, f"Occlusion, {name}", "change of probability"),
        )
    ]
    if series.attention:
        charts.append(
            (
                "Attention to slices",
                "What the models used. It does not prove where an injury is.",
                _curves(series, series.attention, f"Attention, {name}", "share"),
            )
        )
    return _render(
        "series.html",
        facts=series.facts,
        charts=charts,
        map_text=MAP_TEXTS[kind],
        pictures=[
            _picture(series, name, z, top=z == top[0])
            for name, map_ in series.maps.items()
            for top in [top_slices(map_)]
            for z in top
        ],
    )


def _curves(series: SeriesPage, curves: Mapping[str, Curve], title: str, y_label: str) -> Markup:
    z_mm = series.slices_z_mm.tolist()
    lines = [Line(name, z_mm, curve.tolist()) for name, curve in curves.items()]
    plot = line_plot(lines, title=title, x_label="z (mm, LPS; superior is right)", y_label=y_label)
    return Markup(plot)


def top_slices(map_: Tensor) -> list[int]:
    """The slices of a map (Z, h, w) with the largest values; the first has the maximum."""
    largest = map_.flatten(1).amax(dim=1)
    order = largest.argsort(descending=True, stable=True)
    return [int(z) for z in order[:TOP_SLICES]]


def _picture(series: SeriesPage, name: str, z: int, *, top: bool) -> dict[str, Any]:
    """The map of a name over the stored slice in the middle of the classifier's slice `z`."""
    map_, view = series.maps[name], series.view
    low, high = view.z_range
    index = stored_slice(low + (high - low) * (z + 0.5) / len(map_), len(view.volume))
    plane = view.volume[index]
    largest = map_.max().clamp(min=1e-30)
    heat = spread_map(map_[z] / largest, view.plane_range, (plane.shape[0], plane.shape[1]))
    size = box_size_mm(series.record)
    height = WIDTH_PX * size[1] / size[2]
    z_mm = slice_z_mm(series.record, index, len(view.volume))
    return {
        "uri": data_uri(blend(to_grey(plane, view.quantisation), heat)),
        "width": WIDTH_PX,
        "height": round(height, 1),
        "caption": f"{name.replace('_', ' ')}, z {z_mm:.0f} mm",
        "boxes": [
            _rectangle(box, height)
            for box in series.boxes[name]
            if box[0, 0] <= series.record.box_high_mm[0] - z_mm <= box[1, 0]
        ],
        "mark": _mark(maximum_of(map_), tuple(map_.shape[1:]), view, height) if top else None,
    }


def _rectangle(box: Tensor, height: float) -> dict[str, float]:
    (_, y0, x0), (_, y1, x1) = box.tolist()
    return {
        "x": round(x0 * WIDTH_PX, 1),
        "y": round(y0 * height, 1),
        "width": round((x1 - x0) * WIDTH_PX, 1),
        "height": round((y1 - y0) * height, 1),
    }


def _mark(
    maximum: tuple[int, int, int], places: tuple[int, ...], view: PictureView, height: float
) -> dict[str, float]:
    """The centre of the place of the maximum on the picture."""
    y, x = (
        low + (high - low) * (place + 0.5) / n
        for place, n, (low, high) in zip(maximum[1:], places, view.plane_range, strict=True)
    )
    return {"x": round(x * WIDTH_PX, 1), "y": round(y * height, 1)}


def _render(template: str, **values: Any) -> str:
    return _ENVIRONMENT.get_template(template).render(**values)
