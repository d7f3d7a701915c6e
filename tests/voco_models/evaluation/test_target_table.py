"""Groups of two and of three classes go through every step from predictions to the report."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from voco_data.errors import InputError
from voco_data.labels.targets import RSNA_TARGETS, TargetGroup, TargetTable
from voco_models.evaluation import metrics, predictions, report
from voco_models.evaluation.decision import fit_decision, read_decision, write_decision

TABLE = TargetTable(
    (
        RSNA_TARGETS["liver"],
        RSNA_TARGETS["extravasation"],
        TargetGroup("pancreas", ("healthy", "low", "middle", "high"), (1.0, 1.0, 2.0, 3.0)),
    )
)


def patients(quality: float, count: int = 60) -> pd.DataFrame:
    """Patient lines of a model that gives the true class a logit `quality` above the others."""
    rng = np.random.default_rng(0)
    truths = {g.name: np.arange(count) % len(g.classes) for g in TABLE}
    probabilities = {}
    for group in TABLE:
        n_classes = len(group.classes)
        logits = rng.normal(size=(count, n_classes))
        logits += quality * np.eye(n_classes)[truths[group.name]]
        probabilities[group.name] = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    ids = [f"{i:03d}" for i in range(count)]
    series = predictions.make_series_table(
        split="oof",
        fold=0,
        patients=ids,
        series=ids,
        probabilities=probabilities,
        truths=truths,
        targets=TABLE,
    )
    return predictions.to_patients(series, "max", TABLE)


def test_predictions_round_trip(tmp_path: Path) -> None:
    table = patients(1.0)
    predictions.write_predictions(tmp_path / "p.parquet", table, TABLE)
    found = predictions.read_predictions(tmp_path / "p.parquet", TABLE)
    pd.testing.assert_frame_equal(found, table)
    assert list(found.columns[5:14]) == [
        "p_liver_healthy", "p_liver_low", "p_liver_high",
        "p_extravasation_healthy", "p_extravasation_injury",
        "p_pancreas_healthy", "p_pancreas_low", "p_pancreas_middle", "p_pancreas_high",
    ]  # fmt: skip
    with pytest.raises(InputError, match="expected predictions"):
        predictions.read_predictions(tmp_path / "p.parquet", RSNA_TARGETS)


@pytest.mark.parametrize("calibrate", [False, True])
def test_decision_and_metrics(tmp_path: Path, calibrate: bool) -> None:
    table = patients(3.0)
    decision = fit_decision(table, TABLE, calibrate=calibrate)
    assert {name: len(t) for name, t in decision.thresholds.by_group.items()} == {
        "liver": 3, "extravasation": 2, "pancreas": 4,
    }  # fmt: skip
    write_decision(tmp_path, decision)
    assert read_decision(tmp_path, TABLE) == decision
    with pytest.raises(InputError, match="expected the decision"):
        read_decision(tmp_path)  # of other groups

    raw, truths = (
        predictions.group_probabilities(table, TABLE),
        predictions.group_truths(table, TABLE),
    )
    scored, called = decision.calibrate(raw), decision.classify(raw)
    for group in TABLE:
        np.testing.assert_allclose(scored[group.name].sum(axis=1), 1)
        assert (called[group.name] == truths[group.name]).mean() > 0.8
        loss = metrics.weighted_log_loss(scored[group.name], truths[group.name], group.weights)
        assert loss < 0.5
    counts = metrics.unit_counts(len(table))
    assert metrics.mean_average_precision(scored, truths, counts, TABLE) > 0.9
    precision, recall = metrics.macro_precision_recall(called, truths, counts, TABLE)
    assert min(precision, recall) > 0.8


def test_report_has_a_table_for_each_set_of_classes() -> None:
    groups = {
        group.name: {
            "loss": 0.5,
            "average_precision": dict.fromkeys(group.classes, 0.75),
            "confusion": np.eye(len(group.classes), dtype=int).tolist(),
        }
        for group in RSNA_TARGETS
    }
    thresholds = {g.name: [1 / len(g.classes)] * len(g.classes) for g in RSNA_TARGETS}
    gains = {g.name: {"value": 0.25, "low": -0.125, "high": 0.5} for g in RSNA_TARGETS}
    numbers = {
        "organs": groups,
        "decision": {"thresholds": thresholds},
        "gains": {"test_best_constant": gains},
    }
    page = report._render_organs(numbers, RSNA_TARGETS)
    assert page.count("Weighted log loss") == 2
    assert page.count("+0.2500 (-0.1250 to +0.5000)") == len(RSNA_TARGETS)
    assert page.count("AP injury") == 1
    assert page.count("AP high") == 1
    assert page.count("called injury") == 2
    assert page.count("called high") == 3
