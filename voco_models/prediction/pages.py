"""Pages of predictions: an index, and a page per patient. They load nothing and have no scripts.

Pictures are slices of the stored volume, as radiologists see them: axial with anterior up, coronal
with the head up, and the patient's right on the left, as in `voco_data.qc.preview`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from voco_data.qc import Section, html
from voco_data.storage import atomic
from voco_data.store import Record
from voco_data.volumes import Quantisation, Voxels
from voco_models.evaluation import Line, Thresholds, line_plot
from voco_models.prediction.abstention import Abstention
from voco_models.prediction.png import data_uri
from voco_models.prediction.tables import FALLBACK_BOX, NEAR_ANOTHER_CLASS, PREDICTED

INDEX, PAGES_FOLDER = "index.html", "patients"
NOTICE = "Not a medical device. For research only."
N_SLICES = 12
"""Axial slices of a series, evenly spaced, beside those with most attention."""
MAX_REFUSED = 500
"""Refused lines on a page; the table has all."""
WIDTH_PX = 230.0
"""Width of an axial picture."""
ABSTENTION_TEXTS = {
    "": "",
    NEAR_ANOTHER_CLASS: "no decision: too near to another class",
    FALLBACK_BOX: "no decision: the abdomen was not found with confidence",
}

_ENVIRONMENT = Environment(
    loader=PackageLoader("voco_models.prediction"), autoescape=True, undefined=StrictUndefined
)
_SAFE_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,79}")


@dataclass(frozen=True, slots=True)
class SeriesView:
    """One series of a patient's page."""

    record: Record
    volume: Voxels
    """Stored voxels (Z, Y, X): z grows to superior, y to posterior, x to the patient's left."""
    quantisation: Quantisation
    z_range: tuple[float, float]
    """The part of the volume that the classifier sees; see `VolumeView.shown_range`."""
    attention: Mapping[str, npt.NDArray[np.floating[Any]]]
    """Weights of the slices of the classifier's view, inferior first, by group or region."""


def write_patient(
    folder: Path,
    patient_id: str,
    table: pd.DataFrame,
    series: Sequence[SeriesView],
    thresholds: Thresholds,
) -> Path:
    """Write the page of a patient below `folder`, from `table` of `make_table`; its path."""
    lines = table[table["patient_id"] == patient_id]
    patient = lines[lines["level"] == "patient"].iloc[0]
    refused = lines[(lines["level"] == "series") & (lines["status"] != PREDICTED)]
    sections = [Section("Prediction", _render_prediction(patient, thresholds))]
    sections += [
        Section(f"Series {view.record.series_uid}", render_series(view)) for view in series
    ]
    if len(refused):
        sections.append(Section("Refused series", _render_refused(refused)))
    path = folder / PAGES_FOLDER / page_name(patient_id)
    atomic.write_text(path, html.render_page(f"Patient {patient_id}", sections, lead=NOTICE))
    return path


def write_index(
    folder: Path,
    table: pd.DataFrame,
    thresholds: Thresholds,
    abstention: Abstention,
    facts: Sequence[tuple[str, object]],
    notes: Sequence[str],
) -> Path:
    """Write the list of all patients and refused series; returns its path.

    `facts` describe the run, and `notes` are sentences about the submission.
    """
    patients = table[table["level"] == "patient"].sort_values("patient_id")
    refused = table[table["level"].isin(["series", "file"]) & (table["status"] != PREDICTED)]
    rows = [
        {
            "id": line["patient_id"],
            "page": f"{PAGES_FOLDER}/{page_name(line['patient_id'])}",
            "status": line["status"],
            "reason": line["reason"],
            "groups": _groups(line, thresholds),
        }
        for line in patients.to_dict("records")
    ]
    rules = [
        {"name": name, "rule": rule, "kept": rule.patients - rule.abstained}
        for name, rule in abstention.by_group.items()
    ]
    sections = [
        Section("Patients", _render("patients.html", rows=rows, names=thresholds.targets.names)),
        Section("Refused", _render_refused(refused)),
        Section("How to read it", _render("reading.html", facts=facts, notes=notes, rules=rules)),
    ]
    atomic.write_text(folder / INDEX, html.render_page("Predictions", sections, lead=NOTICE))
    return folder / INDEX


def remove_other_pages(folder: Path, patient_ids: Collection[str]) -> None:
    """Remove the pages of patients that an earlier run had and this one has not."""
    names = {page_name(patient) for patient in patient_ids}
    for path in (folder / PAGES_FOLDER).glob("*.html"):
        if path.name not in names:
            path.unlink()


def page_name(patient_id: str) -> str:
    """The file name of a patient's page: the id, or a digest of an id that is no file name."""
    if _SAFE_NAME.fullmatch(patient_id):
        return f"{patient_id}.html"
    text = patient_id.encode(errors="surrogateescape")
    return f"patient-{hashlib.sha256(text).hexdigest()[:16]}.html"


def render_series(view: SeriesView) -> str:
    """Facts, curves of attention and slices of one series, as markup."""
    record = view.record
    return _render(
        "series.html",
        facts=(
            ("Scan", "{} x {} x {} voxels".format(*record.shape)),
            ("Spacing (z, y, x)", "{:.2f} x {:.2f} x {:.2f} mm".format(*record.spacing_mm)),
            ("Box", f"{record.box_method}, confidence {record.box_confidence:.2f}"),
            ("Flags", ", ".join(record.flags) or "none"),
        ),
        chart=Markup(_draw_attention(view)) if view.attention else "",
        attended=[
            _axial(view, index, f"most attention: {name.replace('_', ' ')}")
            for name, index in most_attended(view).items()
        ],
        slices=[_axial(view, index, "") for index in even_slices(view)],
        coronal=_coronal(view),
    )


def even_slices(view: SeriesView) -> list[int]:
    """Stored slices at even distances in the part that the classifier sees, superior first."""
    low, high = view.z_range
    n = len(view.volume)
    middles = high - (high - low) * (np.arange(N_SLICES) + 0.5) / N_SLICES
    return list(dict.fromkeys(stored_slice(place, n) for place in middles.tolist()))


def most_attended(view: SeriesView) -> dict[str, int]:
    """By group or region, the stored slice in the middle of the view's slice of most attention."""
    (low, high), found = view.z_range, {}
    for name, weights in view.attention.items():
        place = low + (high - low) * (int(np.argmax(weights)) + 0.5) / len(weights)
        found[name] = stored_slice(place, len(view.volume))
    return found


def stored_slice(place: float, n: int) -> int:
    """The slice of `n` at a place: 0 is the inferior end of the volume, 1 its superior end."""
    return min(n - 1, int(place * n))


def slice_z_mm(record: Record, index: int, n: int) -> float:
    """LPS z of the middle of slice `index` of `n`, in mm."""
    low, high = record.box_low_mm[0], record.box_high_mm[0]
    return low + (high - low) * (index + 0.5) / n


def _draw_attention(view: SeriesView) -> str:
    low, high = view.record.box_low_mm[0], view.record.box_high_mm[0]
    lines = []
    for name, weights in view.attention.items():
        places = view.z_range[0] + (view.z_range[1] - view.z_range[0]) * (
            (np.arange(len(weights)) + 0.5) / len(weights)
        )
        lines.append(Line(name, (low + (high - low) * places).tolist(), weights.tolist()))
    return line_plot(
        lines,
        title="Attention to slices",
        x_label="z (mm, LPS; superior is right)",
        y_label="share",
    )


def _axial(view: SeriesView, index: int, text: str) -> dict[str, Any]:
    size = box_size_mm(view.record)
    z_mm = slice_z_mm(view.record, index, len(view.volume))
    height = WIDTH_PX * size[1] / size[2]
    caption = f"z {z_mm:.0f} mm" + (f", {text}" if text else "")
    return _picture(view, view.volume[index], WIDTH_PX, height, caption, "axial")


def _coronal(view: SeriesView) -> dict[str, Any]:
    """The middle plane, head up."""
    size = box_size_mm(view.record)
    plane = view.volume[::-1, view.volume.shape[1] // 2]
    width = 1.5 * WIDTH_PX
    return _picture(view, plane, width, width * size[0] / size[2], "coronal, middle", "coronal")


def _picture(
    view: SeriesView, plane: Voxels, width: float, height: float, caption: str, kind: str
) -> dict[str, Any]:
    return {
        "uri": data_uri(to_grey(plane, view.quantisation)),
        "width": round(width, 1),
        "height": round(height, 1),
        "caption": caption,
        "kind": kind,
    }


def to_grey(plane: Voxels, quantisation: Quantisation) -> npt.NDArray[np.uint8]:
    """Stored voxels as 0..255: the store's window from black to white."""
    lowest, highest = quantisation.lowest, quantisation.highest
    scaled = (plane.astype(np.float32) - lowest) * (255 / (highest - lowest))
    grey: npt.NDArray[np.uint8] = np.rint(scaled).astype(np.uint8)
    return grey


def box_size_mm(record: Record) -> tuple[float, float, float]:
    """Extent of the stored box along z, y and x."""
    z, y, x = (h - w for h, w in zip(record.box_high_mm, record.box_low_mm, strict=True))
    return z, y, x


def _render_prediction(patient: pd.Series[Any], thresholds: Thresholds) -> str:
    return _render(
        "prediction.html",
        is_predicted=patient["status"] == PREDICTED,
        reason=patient["reason"],
        detail=patient["detail"],
        n_series=int(patient["n_series"]),
        groups=_groups(patient.to_dict(), thresholds),
    )


def _groups(line: Mapping[Any, Any], thresholds: Thresholds) -> list[dict[str, Any]]:
    """What is said of every group; empty for a refused line."""
    if line["status"] != PREDICTED:
        return []
    return [
        {
            "name": group.name,
            "predicted": line[f"predicted_{group.name}"],
            "abstained": ABSTENTION_TEXTS[line[f"abstained_{group.name}"]],
            "classes": [
                {
                    "name": name,
                    "calibrated": f"{line[f'calibrated_{column}']:.3f}",
                    "threshold": f"{threshold:.3f}",
                    "raw": f"{line[f'raw_{column}']:.3f}",
                }
                for name, column, threshold in zip(
                    group.classes, group.columns, thresholds.by_group[group.name], strict=True
                )
            ],
        }
        for group in thresholds.targets
    ]


def _render_refused(lines: pd.DataFrame) -> str:
    rows = lines.head(MAX_REFUSED).to_dict("records")
    return _render("refused.html", rows=rows, more=len(lines) - len(rows))


def _render(template: str, **values: Any) -> str:
    return _ENVIRONMENT.get_template(template).render(**values)
