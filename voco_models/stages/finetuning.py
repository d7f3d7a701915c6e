"""Fine-tuning: one classifier a fold, and a prediction for every patient.

RUN/run.json              recipe, provenance, digest of the labels, whether it is finished
RUN/split.json            test patients, and validation patients of each fold
RUN/labels.parquet        labels of the run's patients, under the store's ids
RUN/fold-<i>/             checkpoint.pt, history.csv; predictions.parquet once it is finished
RUN/predictions.parquet   out-of-fold and test, a line a series and a line a patient
RUN/decision.json         calibration and thresholds, from the out-of-fold lines
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from voco_data.errors import InputError
from voco_data.labels import ORGAN_TARGETS, Labels
from voco_data.maintenance import pins
from voco_data.storage import atomic
from voco_data.store import Store
from voco_models.data import READER_THREADS, Loader, Residence, Resident, make_resident, step_seed
from voco_models.evaluation import fit_decision, predictions, write_decision
from voco_models.networks import SliceSequenceClassifier, create_backbone
from voco_models.objectives import ClassificationObjective, loss_weights, predict
from voco_models.stages.finetune_plan import FinetunePlan, Series, make_plan
from voco_models.stages.finetune_recipes import FinetuneRecipe, finetune_recipe
from voco_models.training import (
    FitConfig,
    Row,
    check_run_folder,
    checkpoint,
    choose_device,
    differences,
    fit,
)

log = logging.getLogger(__name__)

SPLIT, LABELS = "split.json", "labels.parquet"
STAGE = "finetune"


@dataclass(frozen=True, slots=True)
class FinetuneSummary:
    """What a call of `finetune` did."""

    run: Path
    recipe: str
    init: str
    patients: int
    series: int
    test_patients: int
    folds: int
    folds_finished: int
    steps: int
    """Optimiser steps done, over all folds and calls."""
    total_steps: int
    finished: bool
    seconds: float
    """Of this call."""

    def to_json(self) -> dict[str, object]:
        """As plain values."""
        return asdict(self) | {"run": str(self.run)}


def finetune(
    store: str | Path | Store,
    labels: str | Path,
    out: str | Path,
    *,
    init: str | Path = "scratch",
    recipe: str | Path | FinetuneRecipe = "default",
    changes: Sequence[str] = (),
    max_steps: int | None = None,
    resume: bool = False,
    allow_unlabelled: bool = False,
    device: str | torch.device | None = None,
    pseudonymise: Callable[[str], str] | None = None,
    resident: Residence = "none",
) -> FinetuneSummary:
    """Train one classifier a fold on the store's volumes and predict every patient once.

    `recipe` is a name, a `.toml` file or a value; each of `changes` is `name=value` with the dotted
    name of an option. `max_steps` counts steps over all folds from the beginning of the run, and
    only stops. With `resume`, finished folds are kept and the unfinished one continues as if never
    stopped. `resident` keeps all volumes in memory, as small as the recipe makes them, and changes
    no batch.
    Raises InputError before anything is written if the inputs do not fit together.
    """
    start = time.perf_counter()
    run, target = Path(out), choose_device(device)
    opened = store if isinstance(store, Store) else Store.open(store)
    plan = make_plan(
        opened,
        Path(labels),
        finetune_recipe(recipe, changes),
        init=init,
        allow_unlabelled=allow_unlabelled,
        pseudonymise=pseudonymise,
    )
    _check_run(run, plan, resume=resume)
    in_memory = make_resident(plan.items(plan.series), resident, target, READER_THREADS)
    _write_plan(run, plan)
    pins.pin_store(opened, run, STAGE)
    steps, tables = 0, []
    for fold in range(plan.recipe.n_folds):
        allowed = None if max_steps is None else max_steps - steps
        fold_steps, table = _run_fold(run, plan, fold, target, allowed, in_memory)
        steps += fold_steps
        if table is None:
            break
        tables.append(table)
    finished = len(tables) == plan.recipe.n_folds
    if finished:
        _write_predictions(run, plan, tables)
        checkpoint.write_run(run, _description(plan, finished=True))
    return FinetuneSummary(
        run=run,
        recipe=plan.recipe.name,
        init=plan.first.name,
        patients=len(plan.labels),
        series=len(plan.series),
        test_patients=len(plan.split.test),
        folds=plan.recipe.n_folds,
        folds_finished=len(tables),
        steps=steps,
        total_steps=sum(plan.steps(fold) for fold in range(plan.recipe.n_folds)),
        finished=finished,
        seconds=time.perf_counter() - start,
    )


def _run_fold(
    run: Path,
    plan: FinetunePlan,
    fold: int,
    device: torch.device,
    max_steps: int | None,
    resident: Resident | None,
) -> tuple[int, pd.DataFrame | None]:
    """Train a fold from its start or its checkpoint, then predict.

    Returns its steps so far, and its predictions if it is finished.
    """
    folder = run / f"fold-{fold}"
    if (folder / predictions.FILE).exists():
        table = predictions.read_predictions(folder / predictions.FILE, plan.targets)
        return plan.steps(fold), table
    started = (folder / checkpoint.CHECKPOINT).exists()
    if max_steps is not None and max_steps <= 0 and not started:
        return 0, None
    series = plan.series.of(plan.split.training(fold))
    objective = _objective(plan, fold, series)
    summary = fit(
        objective,
        Loader(
            plan.items(series),
            batch_size=plan.recipe.batch_size,
            seed=step_seed(plan.recipe.seed, fold),
            device=device,
            targets=plan.classes(series),
            resident=resident,
        ),
        _fit_config(plan, fold),
        out=folder,
        device=device,
        max_steps=max_steps,
        resume=started,
        provenance=plan.provenance | {"fold": fold},
        on_log=lambda row: _log_row(plan, fold, row),
    )
    if not summary.finished:
        return summary.last_step, None
    table = _predict_fold(plan, fold, objective.classifier, device, resident)
    predictions.write_predictions(folder / predictions.FILE, table, plan.targets)
    return summary.last_step, table


def _objective(plan: FinetunePlan, fold: int, series: Series) -> ClassificationObjective:
    """The fold's classifier with its first weights, and its loss."""
    recipe = plan.recipe
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(step_seed(recipe.seed, fold))
        backbone = create_backbone(recipe.backbone)
        classifier = SliceSequenceClassifier(
            backbone,
            sequence=recipe.sequence,
            hidden=recipe.hidden,
            layers=recipe.layers,
            dropout=recipe.dropout,
            pooling=recipe.pooling,
            feature_norm=recipe.feature_norm,
            over_slices=recipe.over_slices,
            images_per_call=recipe.images_per_call,
            targets=plan.targets,
        )
    if plan.first.weights is not None:
        backbone.load_state_dict(plan.first.weights, strict=True)
    weights = loss_weights(plan.classes(series), plan.targets.reweighted(recipe.class_weights))
    return ClassificationObjective(
        classifier, recipe.view, recipe.augmentation, weights, plan.window
    )


def _fit_config(plan: FinetunePlan, fold: int) -> FitConfig:
    recipe, steps = plan.recipe, plan.steps(fold)
    return FitConfig(
        total_steps=steps,
        lr=recipe.lr,
        weight_decay=recipe.weight_decay,
        warmup_steps=round(recipe.warmup_fraction * steps),
        final_lr_fraction=recipe.final_lr_fraction,
        clip_norm=recipe.clip_norm,
        log_every=recipe.log_every,
        checkpoint_every=recipe.checkpoint_every,
        seed=step_seed(recipe.seed, fold),
        optimizer=recipe.optimizer,
    )


def _predict_fold(
    plan: FinetunePlan,
    fold: int,
    classifier: SliceSequenceClassifier,
    device: torch.device,
    resident: Resident | None,
) -> pd.DataFrame:
    """Predictions of the fold's model for its validation series and for the test series."""
    parts = (("oof", plan.split.folds[fold]), ("test", plan.split.test))
    tables = []
    for split, patients in parts:
        series = plan.series.of(patients)
        tables.append(
            predictions.series_table(
                split=split,
                fold=fold,
                patients=series.patients,
                series=series.uids,
                probabilities=_predict_series(plan, series, classifier, device, resident),
                truths={name: c.numpy() for name, c in plan.classes(series).items()},
                targets=plan.targets,
            )
        )
    return pd.concat(tables, ignore_index=True)


def _predict_series(
    plan: FinetunePlan,
    series: Series,
    classifier: SliceSequenceClassifier,
    device: torch.device,
    resident: Resident | None,
) -> dict[str, npt.NDArray[np.float32]]:
    """Probabilities (N, C) of every group, in the order of `series`."""
    size = min(plan.recipe.batch_size, len(series))
    loader = Loader(plan.items(series), batch_size=size, seed=0, device=device, resident=resident)
    classifier.eval()
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda"):
        batches = [
            predict(classifier, plan.recipe.view, batch.volumes, plan.window, plan.recipe.flips)
            for batch in loader.once()
        ]
    return {
        name: torch.cat([probabilities[name] for probabilities in batches]).cpu().numpy()
        for name in plan.targets.names
    }


def _write_predictions(run: Path, plan: FinetunePlan, tables: list[pd.DataFrame]) -> None:
    """Out-of-fold lines, the mean of all models for the test lines, and the frozen decision."""
    oof = [table[table["split"] == "oof"] for table in tables]
    test = [table[table["split"] == "test"].reset_index(drop=True) for table in tables]
    targets = plan.targets
    series = pd.concat([*oof, predictions.mean_over_folds(test, targets)], ignore_index=True)
    patients = predictions.to_patients(series, plan.recipe.patient, targets)
    predictions.write_predictions(
        run / predictions.FILE, pd.concat([series, patients], ignore_index=True), targets
    )
    out_of_fold = predictions.patient_lines(patients, "oof")
    write_decision(run, fit_decision(out_of_fold, targets, calibrate=plan.recipe.calibrate))


def _check_run(run: Path, plan: FinetunePlan, *, resume: bool) -> None:
    """InputError unless `run` can be written and is new, or is this same experiment to resume."""
    check_run_folder(run, resume=False)
    exists = (run / checkpoint.RUN).exists()
    if exists and not resume:
        raise InputError(f"{run}: already holds a run; go on with --resume or give another --out")
    if resume and not exists:
        raise InputError(f"{run}: nothing to resume, it holds no {checkpoint.RUN}")
    if not exists:
        return
    before = checkpoint.read_run(run)
    changed = differences(before, _description(plan, finished=False))
    if before.get("labels_sha256") != plan.labels.sha256:
        changed.append("the label table")
    if changed:
        raise InputError(f"{run}: cannot resume: {'; '.join(changed)}; give another --out")


def _write_plan(run: Path, plan: FinetunePlan) -> None:
    """Describe the run before its first step. Resuming writes the same again."""
    if not (run / checkpoint.RUN).exists():
        checkpoint.write_run(run, _description(plan, finished=False))
    atomic.write_text(run / SPLIT, plan.split.to_json() + "\n")
    with atomic.replacing(run / LABELS) as temporary:
        labels_table(plan.labels).to_parquet(temporary, index=False)


def _description(plan: FinetunePlan, *, finished: bool) -> dict[str, Any]:
    """Content of `RUN/run.json`."""
    return plan.provenance | {
        "labels_sha256": plan.labels.sha256,
        "patients": len(plan.labels),
        "series": len(plan.series),
        "pretraining": plan.first.provenance,
        "finished": finished,
    }


def labels_table(labels: Labels) -> pd.DataFrame:
    """Labels as a table: `patient_id` and the class of every group, one line a patient."""
    organs = {name: labels.organs[:, i] for i, name in enumerate(ORGAN_TARGETS.names)}
    return pd.DataFrame({"patient_id": list(labels.patient_ids)} | organs | labels.binary)


def _log_row(plan: FinetunePlan, fold: int, row: Row) -> None:
    log.info(
        "fold %d of %d: step %d of %d, loss %.4f",
        fold + 1,
        plan.recipe.n_folds,
        row["step"],
        plan.steps(fold),
        row["loss"],
    )
