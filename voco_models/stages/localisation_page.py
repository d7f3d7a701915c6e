"""A page of pictures beside the table of `voco localise`, to look at before its boxes are used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import torch
from markupsafe import Markup

from voco_data.errors import translate_unwritable
from voco_data.qc import ENVIRONMENT, Section, render_page
from voco_data.storage import atomic
from voco_data.store import Record, Store
from voco_models.localisation import THRESHOLD, OrganBox, choose_box
from voco_models.objectives import ProjectionObjective
from voco_models.stages.organ_map_prediction import predict_maps
from voco_models.stages.organ_pictures import OrganColumn, draw_organs

SCORE_COLUMNS: Final = {
    "organ": "Organ",
    "median_mm": "Median error, mm",
    "p95_mm": "95th percentile, mm",
    "faces": "Faces",
    "missed": "Faces not found",
    "kept": "Voxels kept",
    "kept_lowest": "Voxels kept, least",
    "mean_box_median_mm": "Mean box: median error, mm",
    "mean_box_kept": "Mean box: voxels kept",
}
"""Columns of the scores on the page, where there are such scores."""
_TABLE: Final = ENVIRONMENT.from_string("""
<div class="wide"><table>
<tr>{% for name in rows[0] %}<th>{{ name }}</th>{% endfor %}</tr>
{% for row in rows %}
<tr>{% for value in row.values() %}<td>{{ value }}</td>{% endfor %}</tr>
{% endfor %}</table></div>
""")
_PICTURE: Final = Markup("<figure>{}<figcaption>{}</figcaption></figure>")
_BOXES: Final = Markup(
    "<p>{found} of {series} series have a box of the {box}, made by {made_by}. A series without "
    "one gets its box from HU in preprocessing.</p>"
)
_SCORES: Final = Markup(
    "<p>{patients} patients with masks, from whom the run has not learnt. Errors are distances of "
    "the six faces of a box from the true ones. Voxels are kept with a margin of {margin_mm:g} mm. "
    "The mean box sees no image.</p>{table}"
)
_PICTURES: Final = Markup(
    "<p>The {number} series whose box is least certain: first those without one. Areas are where "
    "the probability of an organ is at least {threshold:g}, dashed lines the boxes without a "
    "margin, solid lines the mask, where there is one. The scan is its mean along the collapsed "
    "axis.</p>"
)


def write_boxes_page(
    path: Path,
    facts: Mapping[str, Any],
    objective: ProjectionObjective,
    store: Store,
    records: Sequence[Record],
    found: Sequence[Mapping[str, OrganBox]],
    organs: Sequence[str],
    *,
    pictures: int,
    device: torch.device,
) -> None:
    """Write the page with the pictures of the series whose boxes are least certain.

    Parameters
    ----------
    path : the page, .html.
    facts : `series`, `found`, `box`, `made_by`, and `scores` if there are some.
    objective : the run's networks, of the maps of `organs`.
    records, found : the series of `store`, and the boxes of organs of each.
    pictures : number of series that are shown, at most.
    device : where the maps are predicted once more.
    """
    sections = [Section("Boxes", _BOXES.format(**facts))]
    if facts.get("scores"):
        sections.append(Section("Scores", _render_scores(facts["scores"])))
    shown = _choose_least_certain(found, facts["box"])[:pictures]
    rows = [records[number].row for number in shown]
    truths = store.read_organ_maps(rows, organs)
    figures = []
    for position, (number, maps) in enumerate(
        zip(shown, predict_maps(objective, store, rows, device), strict=True)
    ):
        true = (truths.coronal[position], truths.sagittal[position])
        areas = [plane >= THRESHOLD for plane in maps]
        title = _describe(records[number], choose_box(found[number], facts["box"]))
        columns = [
            OrganColumn("scan"),
            OrganColumn("maps", areas, true),
            OrganColumn("boxes", None, true, found[number]),
        ]
        svg = draw_organs(store, records[number], organs, columns, title=title)
        figures.append(_PICTURE.format(Markup(svg), title))
    text = _PICTURES.format(number=len(shown), threshold=THRESHOLD)
    sections.append(Section("Least certain", text + Markup("").join(figures)))
    page = render_page("voco localise", sections, lead="Boxes of organs. Research use only.")
    with translate_unwritable(path):
        atomic.write_text(path, page)


def _choose_least_certain(found: Sequence[Mapping[str, OrganBox]], wanted: str) -> list[int]:
    """Numbers of all series: those without the wanted box, then by rising confidence."""
    boxes = [choose_box(of_organs, wanted) for of_organs in found]
    certainty = [-1.0 if box is None else box.confidence for box in boxes]
    return sorted(range(len(found)), key=certainty.__getitem__)


def _describe(record: Record, box: OrganBox | None) -> str:
    confidence = "no box" if box is None else f"confidence {box.confidence:.2f}"
    return f"Patient {record.patient_id}, series {record.series_uid}: {confidence}"


def _render_scores(scores: Mapping[str, Any]) -> Markup:
    rows = [
        {
            title: _format(row[name])
            for name, title in SCORE_COLUMNS.items()
            if name in scores["organs"][0]
        }
        for row in scores["organs"]
    ]
    table = Markup(_TABLE.render(rows=rows))
    return _SCORES.format(patients=scores["patients"], margin_mm=scores["margin_mm"], table=table)


def _format(value: object) -> str:
    """A name or a count as it is, another number with four digits, and nothing for none."""
    if isinstance(value, float):
        return "" if value != value else f"{value:.4g}"
    return "" if value is None else str(value)
