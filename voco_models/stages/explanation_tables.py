"""The tables of the page of an explanation, from the content of explanation.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from voco_models.explanation import ALL, MIN_RATIO, Table

VARIANTS = {
    "trained": "trained",
    "trained_without_prior": "trained, without the places of organs in other patients",
    "random": "random weights",
    "random_without_prior": "random weights, without the places of organs",
}
CURVES = {
    "attention": "attention to slices",
    "occlusion_neighbours": "size of the effect of hiding a slice: mean of the slices beside it",
    "occlusion_lowest": "size of the effect of hiding a slice: black",
} | {f"map_{name}": f"sum of the map over the slice: {text}" for name, text in VARIANTS.items()}


def make_explanation_tables(results: Mapping[str, Any]) -> list[Table]:
    """The tables of the pointing game and of the slice AUC."""
    tables = [_pointing(results)]
    auc = results["slice_auc"]
    tables.append(
        _slices(
            "Slices that show the organ",
            auc["organs"],
            "Mean over series of the probability that a slice of the organ has a larger value than "
            "another slice; 0.5 is chance. Organs are known from masks.",
        )
    )
    if auc["image_labels"]:
        tables.append(
            _slices(
                "Slices that show an injury",
                auc["image_labels"],
                "As above, for the images that the archive's table names. Effects count with their "
                "sign: hiding the injury must lower its probability.",
            )
        )
    return tables


def _pointing(results: Mapping[str, Any]) -> Table:
    rows = [
        [
            VARIANTS[variant],
            "all" if name == ALL else name.replace("_", " "),
            str(found["cases"]),
            str(found["patients"]),
            *(_interval(found[each]) for each in ("hits", "chance", "ratio")),
        ]
        for variant in VARIANTS
        if variant in results["pointing"]
        for by_name in [results["pointing"][variant]]
        for name, found in by_name.items()
    ]
    counts = (
        f"{results['series_explained']} series of {results['patients']} test patients were "
        f"explained. {results['series_with_organs']} of them have organs with known boxes."
    )
    how = (
        "Hits: share of cases whose largest value lies inside the organ's box. Chance: share of "
        "the places shown that are inside. Intervals: 95 %, by patient. Random weights: the mean "
        f"of {results['random_draws']} draws."
    )
    notes = [counts, how]
    checks = results["checks"]
    if checks:
        trained = _yes(checks["trained_points_at_twice_chance"])
        gone = _yes(checks["gone_with_random_weights"])
        notes.append(
            f"A trained classifier must point at {MIN_RATIO:g} times chance: {trained}. With "
            f"random weights and no known places of organs, this must be gone: {gone}."
        )
    if "random_without_prior" in results["pointing"]:
        notes.append(
            "The head knows the places of organs in the training series with masks. These places "
            "alone point at organs, with random weights too. Compare the lines without them."
        )
    if results["attention_weight"]:
        notes.append(
            "The attention of this run was trained on boxes of the training series "
            f"(attention_weight {results['attention_weight']:g}). That it finds organs was "
            "taught, and does not show that it finds injuries."
        )
    columns = ["Weights", "Organ", "Cases", "Patients", "Hits", "Chance", "Ratio"]
    return Table("The pointing game", columns, rows, notes)


def _slices(title: str, curves: Mapping[str, Any], note: str) -> Table:
    rows = [
        [CURVES[curve], name.replace("_", " "), str(found["series"]), _interval(found)]
        for curve in CURVES
        if curve in curves
        for by_name in [curves[curve]]
        for name, found in by_name.items()
    ]
    notes = [note] if rows else ["No test series has organs with known boxes."]
    return Table(title, ["Curve", "Organ", "Series", "AUC"], rows, notes)


def _interval(found: Mapping[str, float]) -> str:
    return f"{found['value']:.2f} ({found['low']:.2f} to {found['high']:.2f})"


def _yes(passed: bool) -> str:
    return "yes" if passed else "no"
