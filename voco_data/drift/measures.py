"""What is compared of each patient, and from which difference on it matters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

import pandas as pd

from voco_data.errors import InputError

Kind = Literal["value", "share", "category"]

FALLBACK_CONFIDENCE: Final = 0.5
"""A box of less confidence is a fallback; see `Record.box_confidence`."""


@dataclass(frozen=True, slots=True)
class Measure:
    """One property of patients."""

    name: str
    kind: Kind
    """`value`: a number of each patient; `share`: yes or no; `category`: one of several names."""
    label: str
    unit: str
    min_effect: float
    """A smaller difference raises no alarm. See `Comparison.effect`."""
    relative: bool = False
    """Whether the effect of a value is relative to the cohort's."""


SCORE: Final = "score"
"""Stands for all scores among the names of `MEASURES`; a score is named `score_<group>`."""

MEASURES: Final[Mapping[str, Measure]] = {
    measure.name: measure
    for measure in (
        Measure("refused", "share", "patients with a refused series", "", 0.03),
        Measure("fallback_box", "share", "patients with a fallback box", "", 0.1),
        Measure("transfer_syntax", "category", "transfer syntax", "", 0.2),
        Measure("hu_p5", "value", "HU, 5th percentile of the tissue", "HU", 10.0),
        Measure("hu_median", "value", "HU, median of the tissue", "HU", 10.0),
        Measure("hu_p95", "value", "HU, 95th percentile of the tissue", "HU", 10.0),
        Measure("slice_spacing", "value", "slice spacing", "mm", 0.2, relative=True),
        Measure("pixel_spacing", "value", "pixel spacing", "mm", 0.1, relative=True),
        Measure("scan_length", "value", "length of the scan", "mm", 0.2, relative=True),
        Measure(SCORE, "value", "predicted probability of an injury", "", 0.1),
    )
}
"""10 HU are 2.5 % of the abdominal window of 400 HU."""


def choose_measures(changes: Sequence[str] = ()) -> dict[str, Measure]:
    """The measures with other smallest effects, each NAME=VALUE. Raises InputError."""
    measures = dict(MEASURES)
    for change in changes:
        name, _, text = change.partition("=")
        try:
            value = float(text)
        except ValueError:
            value = -1.0
        if name not in measures or not 0 <= value < float("inf"):
            raise InputError(
                f"min effect: expected NAME=NUMBER with one of {', '.join(measures)}, got {change}"
            )
        measures[name] = replace(measures[name], min_effect=value)
    return measures


def values_of_patients(catalogue: pd.DataFrame) -> pd.DataFrame:
    """One line for each patient of a catalogue, by `patient_id`: the median over its series.

    `fallback_box` says whether a series has one; `transfer_syntax` is the most frequent one.
    """
    series = pd.DataFrame(
        {
            "patient_id": catalogue["patient_id"].astype(str),
            "hu_p5": catalogue["hu_p5"],
            "hu_median": catalogue["hu_median"],
            "hu_p95": catalogue["hu_p95"],
            "slice_spacing": catalogue["spacing_z_mm"],
            "pixel_spacing": catalogue["spacing_y_mm"],
            "scan_length": catalogue["z_high_mm"] - catalogue["z_low_mm"],
        }
    )
    values = series.groupby("patient_id").median()
    by_patient = catalogue.groupby(series["patient_id"])
    values["fallback_box"] = by_patient["box_confidence"].min() < FALLBACK_CONFIDENCE
    values["transfer_syntax"] = by_patient["transfer_syntax"].agg(
        lambda names: names.mode().iloc[0]
    )
    return values
