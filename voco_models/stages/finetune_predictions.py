"""Predictions of a fine-tuning run: of each fold's model, and of all models together."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from voco_models.data import ResidentVolumes
from voco_models.evaluation import fit_decision, predictions, write_decision
from voco_models.networks import SliceSequenceClassifier
from voco_models.stages.classifiers import explain_items
from voco_models.stages.finetune_plan import FinetunePlan, Series


def predict_fold(
    plan: FinetunePlan,
    fold: int,
    classifier: SliceSequenceClassifier,
    device: torch.device,
    resident: ResidentVolumes | None,
) -> pd.DataFrame:
    """Predictions of the fold's model for its validation series and for the test series."""
    patients_by_split = {"oof": plan.split.folds[fold], "test": plan.split.test}
    tables = []
    for split, patients in patients_by_split.items():
        series = plan.series.select(patients)
        tables.append(
            predictions.make_series_table(
                split=split,
                fold=fold,
                patients=series.patients,
                series=series.uids,
                probabilities=_predict_series(plan, series, classifier, device, resident),
                truths={name: c.numpy() for name, c in plan.classes_of(series).items()},
                targets=plan.targets,
            )
        )
    return pd.concat(tables, ignore_index=True)


def _predict_series(
    plan: FinetunePlan,
    series: Series,
    classifier: SliceSequenceClassifier,
    device: torch.device,
    resident: ResidentVolumes | None,
) -> dict[str, npt.NDArray[np.float32]]:
    """Probabilities (N, C) by group, in the order of the N `series`."""
    explained = explain_items(
        classifier,
        plan.recipe,
        plan.items_of(series),
        plan.window,
        plan.geometry_of(series),
        device=device,
        resident=resident,
    )
    return {name: explained.probabilities[name] for name in plan.targets.names}


def write_run_predictions(run: Path, plan: FinetunePlan, tables: list[pd.DataFrame]) -> None:
    """Write the predictions of the run, and the decision fitted on its out-of-fold lines.

    Test lines are the mean over the models of all folds.
    """
    oof = [table[table["split"] == "oof"] for table in tables]
    test = [table[table["split"] == "test"].reset_index(drop=True) for table in tables]
    targets = plan.targets
    series = pd.concat([*oof, predictions.average_folds(test, targets)], ignore_index=True)
    patients = predictions.to_patients(series, plan.recipe.patient, targets)
    predictions.write_predictions(
        run / predictions.FILE, pd.concat([series, patients], ignore_index=True), targets
    )
    out_of_fold = predictions.patient_lines(patients, "oof")
    write_decision(run, fit_decision(out_of_fold, targets, calibrate=plan.recipe.calibrate))
