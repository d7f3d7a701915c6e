"""The stage of explanation: which slices and places a finished fine-tuning run uses.

OUT/explanation.json   curves over slices, the pointing game, the slice AUC
OUT/explanation.html   the same as tables, with maps over pictures of some patients

Test patients of the run are explained. Neither their labels nor the scores of the run are read, so
this is no look at the test set.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from voco_data.errors import InputError, translate_unwritable
from voco_data.labels import ImageLabels, read_image_labels
from voco_data.storage import atomic
from voco_data.store import Store
from voco_data.version import VERSION
from voco_models.evaluation import predictions
from voco_models.explanation import (
    ALL,
    MIN_RATIO,
    MapKind,
    PictureView,
    Pointing,
    SeriesPage,
    SliceCase,
    check_captum_installed,
    inside_boxes,
    map_kind,
    maximum_of,
    point,
    slice_auc,
    slices_with_images,
    slices_with_organ,
    summarise_pointing,
    summarise_slices,
    write_page,
)
from voco_models.networks import SliceSequenceClassifier
from voco_models.prediction import NOTICE
from voco_models.stages.classifiers import Weights
from voco_models.stages.explained_series import (
    RANDOM,
    TRAINED,
    WITHOUT_PRIOR,
    SeriesExplanation,
    SeriesInput,
    control_models,
    explain_places,
    explain_series,
    load_models,
    read_inputs,
)
from voco_models.stages.explanation_tables import make_explanation_tables
from voco_models.stages.finished_run import FinishedRun, read_finished_run
from voco_models.training import choose_device

log = logging.getLogger(__name__)

RESULTS, PAGE = "explanation.json", "explanation.html"
PATIENTS = 6
"""Patients on the page, unless told otherwise."""
DRAWS = 5
"""Random classifiers per fold that the pointing game is compared with."""
IMAGE_GROUPS = ("bowel", "extravasation")


@dataclass(frozen=True, slots=True)
class ExplainSummary:
    """Files and main figures of an explanation."""

    run: Path
    out: Path
    results: Path
    page: Path
    map: MapKind
    patients: int
    """Test patients that were explained."""
    series: int
    series_with_organs: int
    """Series whose organs' boxes are known, which the pointing game is played on."""
    pointing: dict[str, dict[str, float]]
    """Hits, chance and ratio over all organs, by variant; empty without boxes."""
    checks: dict[str, bool]
    digest: str
    seconds: float

    def to_json(self) -> dict[str, object]:
        """The summary as plain values."""
        paths = {name: str(getattr(self, name)) for name in ("run", "out", "results", "page")}
        return asdict(self) | paths


@dataclass(slots=True)
class _Found:
    """What is collected over the series."""

    series: list[dict[str, Any]] = field(default_factory=list)
    pointing: dict[str, list[Pointing]] = field(default_factory=dict)
    """Cases by variant."""
    organ_auc: dict[str, list[SliceCase]] = field(default_factory=dict)
    """Cases by curve."""
    image_auc: dict[str, list[SliceCase]] = field(default_factory=dict)
    hidden: int = 0
    """Organs with a box of which no place is in the view."""


def explain(
    run: str | Path,
    store: str | Path | Store,
    out: str | Path,
    *,
    patients: int = PATIENTS,
    image_labels: str | Path | None = None,
    device: str | torch.device | None = None,
) -> ExplainSummary:
    """Explain the test patients of a finished fine-tuning run.

    Parameters
    ----------
    run : folder of the run.
    store : an open store of the run's spec with its test patients, or its folder or URL.
    out : folder for the results. Those of an earlier explanation are replaced.
    patients : how many patients the page shows: those whose organs' boxes are known first, then
        those with the most probable injuries.
    image_labels : `image_level_labels.csv` of the archive, for runs that grade bowel or
        extravasation.
    device : CUDA if available, else the CPU, if None.

    Raises
    ------
    InputError : for a run that cannot predict, a store of another spec or without test patients,
        image labels that cannot be read, and without captum where Grad-CAM is needed.
    VocoError : if the results cannot be written.
    """
    start = time.perf_counter()
    finished, folder, chosen = read_finished_run(run), Path(out), choose_device(device)
    opened = store if isinstance(store, Store) else Store.open(store)
    if opened.spec != finished.spec:
        raise InputError(
            f"{opened.storage}: expected a store of the run's spec {finished.spec.name}"
        )
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: expected a folder as --out, got a file")
    labels = None if image_labels is None else read_image_labels(image_labels)
    lines = _test_series(finished, opened)
    models = load_models(finished, chosen)
    kind = map_kind(models[0])
    if kind == "grad_cam":
        check_captum_installed()
    found = _Found()
    for series in read_inputs(finished, opened, lines, chosen):
        _collect(finished, found, series, explain_series(models, series), labels)
    if labels is not None and not found.image_auc:
        log.warning(
            "%s: names no image of a test series for a group that the run grades", image_labels
        )
    _add_controls(finished, opened, found, lines, chosen)
    results = _summarise(finished, found, kind, len(lines))
    with translate_unwritable(folder):
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(results, indent=1, sort_keys=True, allow_nan=False)
        atomic.write_text(folder / RESULTS, text + "\n")
        shown = _choose_patients(found, patients)
        views = list(_views(finished, opened, lines, shown, models, chosen))
        write_page(folder / PAGE, make_explanation_tables(results), views, kind)
    pointing = {
        variant: {name: by[ALL][name]["value"] for name in ("hits", "chance", "ratio")}
        for variant, by in results["pointing"].items()
    }
    return ExplainSummary(
        run=finished.folder,
        out=folder,
        results=folder / RESULTS,
        page=folder / PAGE,
        map=kind,
        patients=int(lines["patient_id"].nunique()),
        series=len(lines),
        series_with_organs=results["series_with_organs"],
        pointing=pointing,
        checks=results["checks"],
        digest=finished.digest,
        seconds=round(time.perf_counter() - start, 3),
    )


def _test_series(run: FinishedRun, store: Store) -> pd.DataFrame:
    """Lines of the catalogue of the run's test series, by patient and series.

    Series of test patients that the run does not predict, such as those that its selection leaves
    out, are no test series.
    """
    table = predictions.read_predictions(run.folder / predictions.FILE, run.targets)
    test = table[(table["level"] == "series") & (table["split"] == "test")]
    ids = ["patient_id", "series_uid"]
    listed = set(test[ids].itertuples(index=False, name=None))
    catalogue = store.catalogue
    lines = catalogue[
        [each in listed for each in catalogue[ids].itertuples(index=False, name=None)]
    ]
    if lines.empty:
        raise InputError(
            f"{store.storage}: has no test patient of the run; give the store that it learnt from"
        )
    return lines.sort_values(["patient_id", "series_uid", "row"], ignore_index=True)


def _collect(
    run: FinishedRun,
    found: _Found,
    series: SeriesInput,
    explained: SeriesExplanation,
    labels: ImageLabels | None,
) -> None:
    """Add the trained models' explanation of one series."""
    record, view = series.record, run.recipe.view
    _add_pointing(found, TRAINED, series, explained.maps)
    curves = {f"occlusion_{name}": curve for name, curve in explained.occlusion.items()}
    if explained.attention:
        curves["attention"] = explained.attention
    for curve, by_name in curves.items():
        # Hiding a healthy organ may raise or lower the probability: the size of the effect counts.
        sizes = {name: np.abs(values) for name, values in by_name.items()}
        _add_organ_auc(found, curve, series, sizes)
    of_series = {} if labels is None else labels.get(record.series_uid, {})
    for group in (name for name in IMAGE_GROUPS if name in run.targets and name in of_series):
        positive = slices_with_images(record, view, series.stored, of_series[group])
        if positive.any() and not positive.all():
            for curve, by_name in curves.items():
                auc = slice_auc(np.asarray(by_name[group], np.float64), positive)
                case = SliceCase(record.patient_id, record.series_uid, group, auc)
                found.image_auc.setdefault(curve, []).append(case)
    found.series.append(
        {
            "patient_id": record.patient_id,
            "series_uid": record.series_uid,
            "injury": {name: _rounded(value) for name, value in explained.injury.items()},
            "z_mm": [round(z, 2) for z in series.slices_z_mm.tolist()],
            "curves": {
                curve: {name: [_rounded(v) for v in values.tolist()] for name, values in by.items()}
                for curve, by in curves.items()
            },
            "maxima": {name: maximum_of(map_) for name, map_ in explained.maps.items()},
        }
    )


def _add_controls(
    run: FinishedRun, store: Store, found: _Found, lines: pd.DataFrame, device: torch.device
) -> None:
    """Play the pointing game with the controls, on the series with boxes."""
    boxed = {case.series_uid for case in found.pointing.get(TRAINED, [])}
    chosen = lines[lines["series_uid"].isin(boxed)]
    for variant, models in control_models(run, DRAWS if boxed else 0, device):
        for series in read_inputs(run, store, chosen, device):
            _add_pointing(found, variant, series, explain_places(models, series))


def _add_pointing(
    found: _Found, variant: str, series: SeriesInput, maps: dict[str, torch.Tensor]
) -> None:
    """Add the cases of one series, and how well the sums of its maps find the organ's slices."""
    depths = series.slices_depth_mm
    for name, map_ in maps.items():
        boxes = series.boxes_in_view[name]
        if not boxes.isfinite().all(dim=(1, 2)).any():
            continue
        inside = inside_boxes(boxes, depths, (map_.shape[1], map_.shape[2]))
        if not inside.any():
            found.hidden += variant == TRAINED
            continue
        hit, chance = point(map_, inside)
        found.pointing.setdefault(variant, []).append(
            Pointing(series.record.patient_id, series.record.series_uid, name, hit, chance)
        )
    sums = {name: map_.sum(dim=(1, 2)).numpy() for name, map_ in maps.items()}
    _add_organ_auc(found, f"map_{variant}", series, sums)


def _add_organ_auc(
    found: _Found, curve: str, series: SeriesInput, by_name: dict[str, Weights]
) -> None:
    """Add how well curves find the slices of the organ."""
    depths = series.slices_depth_mm
    for name, values in by_name.items():
        positive = slices_with_organ(series.boxes[name], depths)
        if positive.any() and not positive.all():
            auc = slice_auc(np.asarray(values, np.float64), positive)
            case = SliceCase(series.record.patient_id, series.record.series_uid, name, auc)
            found.organ_auc.setdefault(curve, []).append(case)


def _summarise(run: FinishedRun, found: _Found, kind: MapKind, n: int) -> dict[str, Any]:
    """The content of explanation.json."""
    pointing: dict[str, Any] = {
        variant: summarise_pointing(cases) for variant, cases in found.pointing.items()
    }
    checks = {}
    if pointing:
        ratios = {name: by[ALL]["ratio"]["value"] for name, by in pointing.items()}
        unlearnt = ratios.get(RANDOM + WITHOUT_PRIOR, ratios[RANDOM])
        checks = {
            "trained_points_at_twice_chance": ratios[TRAINED] >= MIN_RATIO,
            "gone_with_random_weights": unlearnt < MIN_RATIO,
        }
    return {
        "use": NOTICE,
        "voco": VERSION,
        "run": run.digest,
        "recipe": run.recipe.name,
        "head": run.recipe.head,
        "map": kind,
        "patients": len({each["patient_id"] for each in found.series}),
        "series_explained": n,
        "series_with_organs": len({case.series_uid for case in found.pointing.get(TRAINED, [])}),
        "organs_outside_the_view": found.hidden,
        "random_draws": DRAWS,
        "attention_weight": run.recipe.attention_weight,
        "pointing": pointing,
        "checks": checks,
        "slice_auc": {
            "organs": {name: summarise_slices(cases) for name, cases in found.organ_auc.items()},
            "image_labels": {
                name: summarise_slices(cases) for name, cases in found.image_auc.items()
            },
        },
        "series": found.series,
    }


def _choose_patients(found: _Found, count: int) -> list[str]:
    """Patients for the page: those with known boxes, then those with the most probable injury."""
    boxed = {case.patient_id for case in found.pointing.get(TRAINED, [])}
    largest: dict[str, float] = {}
    for each in found.series:
        patient = each["patient_id"]
        largest[patient] = max(largest.get(patient, 0.0), *each["injury"].values())
    order = sorted(largest, key=lambda each: (each not in boxed, -largest[each], each))
    return order[:count]


def _views(
    run: FinishedRun,
    store: Store,
    lines: pd.DataFrame,
    patients: Sequence[str],
    models: Sequence[SliceSequenceClassifier],
    device: torch.device,
) -> Iterator[SeriesPage]:
    """What the page shows of each series of some patients.

    They are explained another time: maps of all series may not fit into memory.
    """
    view = run.recipe.view
    for patient in patients:
        chosen = lines[lines["patient_id"] == patient]
        for series in read_inputs(run, store, chosen, device):
            one = explain_series(models, series)
            yield SeriesPage(
                record=series.record,
                facts=[
                    (f"Probability of an injury: {name}", f"{value:.3f}")
                    for name, value in one.injury.items()
                ],
                view=PictureView(
                    volume=store.read(series.row),
                    quantisation=store.spec.window,
                    z_range=view.shown_range(store.grid[0]),
                    plane_range=view.plane_range(store.grid),
                ),
                slices_z_mm=series.slices_z_mm,
                attention=one.attention,
                occlusion=one.occlusion["neighbours"],
                maps=one.maps,
                boxes=series.boxes,
            )


def _rounded(value: float) -> float:
    return round(float(value), 6)
