"""A finished fine-tuning run whose predictions are drawn, not learnt: it takes no training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from voco_data.labels.targets import ORGAN_TARGETS
from voco_models.evaluation import predictions
from voco_models.evaluation.decision import fit_decision, write_decision
from voco_models.training import checkpoint

ORGANS = ORGAN_TARGETS.names
FOLDS = 2

DESCRIPTION: dict[str, Any] = {
    "stage": "finetune",
    "finished": True,
    "recipe": {
        "name": "known",
        "backbone": "test_byobnet",
        "n_folds": FOLDS,
        "seed": 0,
        "view": {"slices": 4, "size_px": 32, "reduce": "average"},
    },
    "init": "scratch",
    "pretraining": None,
    "exposure": None,
    "stores": [{"name": "finetune-0123456789ab.zarr", "volumes": 200}],
    "series": 200,
    "split": "0123456789ab",
    "labels_sha256": "0" * 64,
    "voco": "0.1.0",
    "commit": None,
    "torch": "2",
    "timm": "1",
}


def write_known_run(
    run: Path,
    *,
    quality: float,
    count: int = 200,
    binary: bool = True,
    seed: int = 0,
    noise_seed: int = 0,
    test: range | None = None,
) -> Path:
    """A run whose model gives the true class a logit `quality` above the others.

    `test` are the numbers of the test patients, by default the first quarter; all others are out of
    fold. `seed` draws the labels and `noise_seed` the model's mistakes.
    """
    rng = np.random.default_rng(seed)
    grades = rng.choice(3, size=(count, 3), p=[0.6, 0.2, 0.2])
    noise = np.random.default_rng((seed, noise_seed)).normal(size=(count, 3, 3))
    logits = noise + quality * np.eye(3)[grades]
    chances = np.exp(logits) / np.exp(logits).sum(axis=2, keepdims=True)
    ids = np.array([f"{i:03d}" for i in range(count)])
    held_out = np.isin(np.arange(count), test or range(count // 4))
    series = pd.concat(
        [
            predictions.make_series_table(
                split=split,
                fold=-1 if split == "test" else 0,
                patients=ids[rows].tolist(),
                series=ids[rows].tolist(),
                probabilities={o: chances[rows, i] for i, o in enumerate(ORGANS)},
                truths={o: grades[rows, i] for i, o in enumerate(ORGANS)},
            )
            for split, rows in (("test", held_out), ("oof", ~held_out))
        ]
    )
    patients = predictions.to_patients(series, "mean")
    labels = pd.DataFrame({"patient_id": ids} | {o: grades[:, i] for i, o in enumerate(ORGANS)})
    if binary:
        labels["bowel"] = rng.integers(2, size=count)
        labels["extravasation"] = rng.integers(2, size=count)
    run.mkdir()
    labels.to_parquet(run / "labels.parquet")
    predictions.write_predictions(run / predictions.FILE, pd.concat([series, patients]))
    write_decision(run, fit_decision(predictions.patient_lines(patients, "oof"), calibrate=True))
    checkpoint.write_run(run, DESCRIPTION)
    for fold in range(FOLDS):
        (run / f"fold-{fold}").mkdir()
        rows = "".join(f"{step},{1 / step + 0.1 * fold}\n" for step in range(1, 20))
        (run / f"fold-{fold}" / "history.csv").write_text(f"step,loss\n{rows}")
    return run
