"""The report of a fine-tuning run, as the sections of a page."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from voco_data.errors import InputError
from voco_data.labels import ORGAN_TARGETS, TargetTable
from voco_data.qc import Section
from voco_data.selection import Exposure
from voco_models.evaluation.markup import render
from voco_models.evaluation.measure_sections import measure_sections
from voco_models.evaluation.plots import Line, line_plot
from voco_models.training import checkpoint, read_history

METRICS, REPORT = "metrics.json", "report.html"
LEAD = (
    "A slice-sequence classifier, scored on {count} held-out patients. {pretraining} "
    "Research use only."
)

_SCORE_LABELS = {
    "rsna_organ_3": ("rsna_organ_3", "↓"),
    "rsna_organ_3_any": ("rsna_organ_3_any", "↓"),
    "rsna_official_6": ("rsna_official_6", "↓"),
    "mean_average_precision": ("mAP", "↑"),
    "macro_precision": ("Macro precision", "↑"),
    "macro_recall": ("Macro recall", "↑"),
}
_ARM_LABELS = {
    "model": "Model",
    "model_uncalibrated": "Model before calibration",
    "training_prior": "Constant: priors of the training labels",
    "training_weight_optimal": "Constant: weight-optimal for the training labels",
    "test_best_constant": "Constant: best for the test labels",
}


@dataclass(frozen=True, slots=True)
class PaperRow:
    """A row of the paper's Table 1: the RSNA score, and the others in percent."""

    backbone: str
    setting: str
    rsna: float
    mean_ap: float
    precision: float
    recall: float


PAPER_TABLE_1 = (
    PaperRow("EfficientNetV2-T", "without 2D-VoCo", 0.4133, 59.47, 60.84, 49.37),
    PaperRow("EfficientNetV2-T", "2D-VoCo", 0.3818, 58.71, 65.88, 53.13),
    PaperRow("EfficientNetV2-T", "2D-VoCo, RATIC and FLARE23", 0.3777, 60.98, 66.71, 53.90),
    PaperRow("EfficientNetV2-S", "without 2D-VoCo", 0.4009, 59.20, 62.28, 52.05),
    PaperRow("EfficientNetV2-S", "2D-VoCo", 0.3925, 60.13, 63.84, 49.09),
    PaperRow("EfficientNetV2-S", "2D-VoCo, RATIC and FLARE23", 0.3817, 61.91, 66.47, 54.88),
)
"""Chiu and Chen, arXiv 2601.14593, Table 1."""


def make_sections(
    run: Path,
    results: dict[str, Any] | None = None,
    targets: TargetTable = ORGAN_TARGETS,
    *,
    paper: bool = True,
) -> list[Section]:
    """Sections for a fine-tuning run: scores, measures, training, the run, the paper's results.

    `results` is from `voco_models.stages.evaluation.compute_results`, or from `RUN/metrics.json` if
    None. The last section has the paper's results; it is left out without `paper`.
    """
    numbers = read_results(run) if results is None else results
    description = checkpoint.read_run(run)
    sections = [
        Section("Scores on held-out patients", _render_scores(numbers, description)),
        Section("Organ by organ", _render_organs(numbers, targets)),
        *measure_sections(numbers.get("measures")),
        Section("Training of the classifier", _render_curves(run, description)),
        Section("The fine-tuning run", _render_facts(numbers, description)),
    ]
    if paper:
        papers = render("paper.html", rows=PAPER_TABLE_1)
        sections.append(Section("The paper's own results", papers))
    return sections


def make_lead(exposure: Exposure) -> str:
    """The first line of the page."""
    return LEAD.format(count=exposure.test_patients, pretraining=exposure.sentence)


def exposure_of(description: dict[str, Any], test_patients: int) -> Exposure:
    """How many test patients pretraining has seen, from a run's description.

    Runs of older versions did not record it: it is unknown for those that start from a run.
    """
    if (recorded := description.get("exposure")) is not None:
        return Exposure.from_json(recorded)
    pretrained = str(description.get("init", "")).startswith("run:")
    return Exposure(pretrained, test_patients, None if pretrained else 0)


def describe_looks(test_set: dict[str, int] | None) -> str:
    """A sentence on how often the test set was opened; empty for evaluations without a record."""
    if test_set is None:
        return ""
    opened, compared = test_set["looks"], test_set["comparisons"]
    times = "once" if opened == 1 else f"{opened} times: these scores may be the best of several"
    others = f" Comparisons with other runs: {compared}." if compared else ""
    gone = describe_withdrawn(test_set.get("withdrawn", 0))
    return f"The test set was opened {times}.{others}{gone}"


def describe_withdrawn(count: int) -> str:
    """A sentence on test patients who were forgotten; empty without any."""
    if not count:
        return ""
    patients = "1 test patient was" if count == 1 else f"{count} test patients were"
    return f" {patients} forgotten (voco forget) since the run was made and left out of all scores."


def read_results(folder: Path) -> dict[str, Any]:
    """Read `metrics.json` of an evaluation. Raises InputError if there is none."""
    path = folder / METRICS
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: expected the numbers of voco evaluate") from error


def _render_scores(numbers: dict[str, Any], description: dict[str, Any]) -> str:
    rsna = [name for name in numbers["scores"] if name.startswith("rsna_")]
    return render(
        "scores.html",
        exposure=exposure_of(description, numbers["test_patients"]).sentence,
        looks=describe_looks(numbers.get("test_set")),
        test_patients=numbers["test_patients"],
        folds=description["recipe"]["n_folds"],
        percent=f"{100 * numbers['level']:g}",
        resamples=f"{numbers['resamples']:,}",
        constant_groups=numbers["constant_groups"],
        rsna=rsna,
        scores=[
            {
                "name": _SCORE_LABELS[name][0],
                "arrow": _SCORE_LABELS[name][1],
                **{key: f"{value:.4f}" for key, value in interval.items()},
            }
            for name, interval in numbers["scores"].items()
        ],
        arms=[
            {
                "name": _ARM_LABELS[arm],
                "scores": [f"{scores[name]:.4f}" for name in rsna],
                "gain": _format_gain(numbers["gains"].get(arm), rsna[0]),
            }
            for arm, scores in numbers["arms"].items()
        ],
    )


def _format_gain(gains: dict[str, dict[str, float]] | None, name: str) -> str:
    if gains is None or name not in gains:  # older evaluations have no gains by organ
        return ""
    return "{value:+.4f} ({low:+.4f} to {high:+.4f})".format(**gains[name])


def _render_organs(numbers: dict[str, Any], targets: TargetTable) -> str:
    """A table of scores for all groups with the same classes, and confusion counts by group."""
    tables: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for name, results in numbers["organs"].items():
        classes = targets[name].classes
        precisions = results["average_precision"]
        thresholds = numbers["decision"]["thresholds"][name]
        tables.setdefault(classes, []).append(
            {
                "name": name,
                "classes": classes,
                "loss": f"{results['loss']:.4f}",
                "gain": _format_gain(numbers["gains"]["test_best_constant"], name),
                "precisions": [_format_precision(precisions.get(c)) for c in classes],
                "thresholds": [f"{t:.2f}" for t in thresholds],
                "confusion": results["confusion"],
            }
        )
    groups = [group for table in tables.values() for group in table]
    return render("organs.html", tables=tables, groups=groups)


def _format_precision(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _render_curves(run: Path, description: dict[str, Any]) -> str:
    lines = []
    for fold in range(description["recipe"]["n_folds"]):
        rows = read_history(run / f"fold-{fold}")
        steps, losses = [row["step"] for row in rows], [row["loss"] for row in rows]
        lines.append(Line(f"fold {fold + 1}", steps, losses))
    chart = line_plot(
        lines, title="Training loss", x_label="step", y_label="weighted cross-entropy"
    )
    return render("curves.html", chart=Markup(chart))


def _render_facts(numbers: dict[str, Any], description: dict[str, Any]) -> str:
    recipe = description["recipe"]
    stores = ", ".join(f"{s['name']} ({s['volumes']} volumes)" for s in description["stores"])
    view = recipe["view"]
    facts: Sequence[tuple[str, object]] = (
        ("Recipe", recipe["name"]),
        ("Backbone", f"{recipe['backbone']}, starting from {description['init']}"),
        ("Input", f"{view['slices']} slices of {view['size_px']} px ({view['reduce']})"),
        ("Store", stores),
        ("Patients", f"{numbers['training_patients']} training, {numbers['test_patients']} test"),
        ("Series", description["series"]),
        ("Folds", recipe["n_folds"]),
        ("Seed", recipe["seed"]),
        ("Split", description["split"]),
        ("Labels (SHA-256)", description["labels_sha256"]),
        ("voco", description["voco"] or "not installed"),
        ("Commit", description["commit"] or "unknown"),
        ("torch, timm", f"{description['torch']}, {description['timm']}"),
    )
    return render(
        "run.html",
        facts=facts,
        pretraining=_describe_pretraining(description),
        exposure=exposure_of(description, numbers["test_patients"]).sentence,
    )


def _describe_pretraining(description: dict[str, Any]) -> str | None:
    provenance = description["pretraining"]
    if provenance is None:
        return None
    stores = ", ".join(f"{s['name']} ({s['volumes']} volumes)" for s in provenance["stores"])
    selection = provenance.get("selection")
    if selection is None:
        return stores
    return f"{selection['volumes']} volumes of {selection['patients']} patients of {stores}"
