"""The stage of fine-tuning: one classifier per fold, and a prediction for every patient.

RUN/run.json              recipe, provenance, digest of the labels, whether it is finished
RUN/split.json            the split: test patients, and validation patients of each fold
RUN/patients.json         patients of the backbone's pretraining, if known; see `SeenPatients`
RUN/labels.parquet        labels of the run's patients, under the store's ids
RUN/fold-<i>/             checkpoint.pt, history.csv; predictions.parquet of a finished fold
RUN/predictions.parquet   out-of-fold and test; one line per series and one per patient
RUN/decision.json         calibration and thresholds, from the out-of-fold lines
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from voco_data.errors import InputError
from voco_data.labels import ORGAN_TARGETS, Labels
from voco_data.maintenance import pins
from voco_data.selection import open_pinned
from voco_data.storage import atomic
from voco_data.store import Store
from voco_data.withdrawal import inherit_mark
from voco_models.data import (
    READER_THREADS,
    Loader,
    Residence,
    ResidentVolumes,
    make_resident,
    step_seed,
)
from voco_models.evaluation import looks, predictions
from voco_models.networks import OrganQueryHead
from voco_models.objectives import (
    ORGAN_BOXES,
    ClassificationObjective,
    check_pairs,
    loss_weights,
)
from voco_models.processes import (
    is_first_process,
    join_processes,
    n_processes,
    process_rank,
    share_of_batch,
    wait_for_processes,
)
from voco_models.stages.classifiers import build_classifier
from voco_models.stages.finetune_plan import FinetunePlan, Series, make_plan
from voco_models.stages.finetune_predictions import predict_fold, write_run_predictions
from voco_models.stages.finetune_recipes import FinetuneRecipe, finetune_recipe
from voco_models.stages.run_split import find_split, keep_split
from voco_models.training import (
    FitConfig,
    HistoryRow,
    Monitor,
    check_before_resume,
    check_run_folder,
    checkpoint,
    choose_device,
    complete_run,
    fit,
    list_differences,
    mark_incomplete,
)

log = logging.getLogger(__name__)

LABELS = "labels.parquet"
LABEL_TABLES = {
    "labels_sha256": "the label table",
    "image_labels_sha256": "the table of image labels",
    "organ_boxes_sha256": "the table of organ boxes",
}
"""Digests in `RUN/run.json`, and what they are of."""
STAGE = "finetune"


@dataclass(frozen=True, slots=True)
class FinetuneSummary:
    """The steps and the state of a run after a call of `finetune`."""

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
    transductive: bool | None
    """Whether pretraining has seen test patients; None if unknown, and without pretraining."""
    pretrained_on_test_patients: int | None
    """How many of the test patients pretraining has seen; None if unknown."""
    seconds: float
    """Duration of this call."""

    def to_json(self) -> dict[str, object]:
        """The summary as plain values."""
        return asdict(self) | {"run": str(self.run)}


def finetune(
    store: str | Path | Store,
    labels: str | Path,
    out: str | Path,
    *,
    init: str | Path = "scratch",
    recipe: str | Path | FinetuneRecipe = "default",
    changes: Sequence[str] = (),
    image_labels: str | Path | None = None,
    organ_boxes: str | Path | None = None,
    split: str | Path | None = None,
    transductive: bool = False,
    max_steps: int | None = None,
    resume: bool = False,
    allow_unlabelled: bool = False,
    device: str | torch.device | None = None,
    pseudonymise: Callable[[str], str] | None = None,
    resident: Residence = "none",
    rows: str | Path | None = None,
    monitors: Sequence[Monitor] = (),
) -> FinetuneSummary:
    """Train one classifier per fold on the store's volumes, and predict every patient once.

    The processes of `torchrun` train together; each has its share of every batch of the recipe.

    Parameters
    ----------
    store : an open store, or its folder or URL.
    labels : table of labels; see `voco_data.labels`.
    out : folder of the run.
    init : `scratch`, `imagenet`, or the folder of a pretraining run.
    recipe : a name, a `.toml` file, or a recipe.
    changes : `name=value` each, with the dotted name of an option.
    image_labels : `image_level_labels.csv` of the archive, for recipes with `slice_weight`.
    organ_boxes : table of `voco localise` with boxes of organs, for the head `organ_queries` and
        series without masks of them.
    split : file of `voco split`. Without it the run makes a split, by the same rule. A resumed run
        has its own.
    transductive : accept a backbone that was pretrained on test patients.
    max_steps : step at which to stop, counted over all folds from the beginning of the run. It does
        not change the schedule.
    resume : keep finished folds, and continue the unfinished one from its checkpoint.
    allow_unlabelled : leave out patients of the store that have no labels.
    device : CUDA if available, else the CPU, if None.
    pseudonymise : function from patient ids of the labels to those of the store.
    resident : keep all volumes in memory, at the size of the recipe. Batches do not change.
    rows : file of `PinnedRows`: the store is read as if it had no other rows.
    monitors : observe the training of every fold between steps.

    Raises
    ------
    InputError : before anything is written, if the inputs do not fit together.
    Diverged : if a loss or a weight is not finite.
    """
    start = time.perf_counter()
    run, chosen_device = Path(out), choose_device(device)
    join_processes(chosen_device)
    opened = store if isinstance(store, Store) else Store.open(store)
    if rows is not None:
        opened = open_pinned(opened, Path(rows))
    plan = make_plan(
        opened,
        Path(labels),
        finetune_recipe(recipe, changes),
        init=init,
        image_labels=None if image_labels is None else Path(image_labels),
        organ_boxes=None if organ_boxes is None else Path(organ_boxes),
        split=find_split(split, run, resume=resume),
        transductive=transductive,
        allow_unlabelled=allow_unlabelled,
        pseudonymise=pseudonymise,
    )
    _check_run(run, plan, resume=resume)
    is_complete = resume and _is_complete(run)
    share = share_of_batch(plan.recipe.batch_size)
    if plan.recipe.mixup_alpha:
        check_pairs(share)
    volumes = make_resident(plan.items_of(plan.series), resident, chosen_device, READER_THREADS)
    wait_for_processes()  # all have checked the folder
    if is_first_process():
        if not is_complete:
            _write_plan(run, plan)
            inherit_mark(init, run)
        pins.pin_store(opened, run, STAGE)
    steps, tables = 0, []
    for fold in range(plan.recipe.n_folds):
        fold_steps, table = _run_fold(
            run,
            plan,
            fold,
            device=chosen_device,
            max_steps=None if max_steps is None else max_steps - steps,
            resident=volumes,
            monitors=monitors,
        )
        steps += fold_steps
        if table is None:
            break
        tables.append(table)
    finished = len(tables) == plan.recipe.n_folds
    if finished and is_first_process() and not is_complete:
        write_run_predictions(run, plan, tables)
        complete_run(run, _describe_run(plan, finished=True))
    return FinetuneSummary(
        run=run,
        recipe=plan.recipe.name,
        init=plan.initial.name,
        patients=len(plan.labels),
        series=len(plan.series),
        test_patients=len(plan.split.test),
        folds=plan.recipe.n_folds,
        folds_finished=len(tables),
        steps=steps,
        total_steps=sum(plan.count_steps(fold) for fold in range(plan.recipe.n_folds)),
        finished=finished,
        transductive=plan.exposure.transductive,
        pretrained_on_test_patients=plan.exposure.seen,
        seconds=time.perf_counter() - start,
    )


def _run_fold(
    run: Path,
    plan: FinetunePlan,
    fold: int,
    *,
    device: torch.device,
    max_steps: int | None,
    resident: ResidentVolumes | None,
    monitors: Sequence[Monitor],
) -> tuple[int, pd.DataFrame | None]:
    """Train a fold from its start or its checkpoint, then predict.

    Returns the number of steps of the fold so far, and its predictions if it is finished.
    """
    folder = run / f"fold-{fold}"
    if (folder / predictions.FILE).exists():
        table = predictions.read_predictions(folder / predictions.FILE, plan.targets)
        return plan.count_steps(fold), table
    started = (folder / checkpoint.CHECKPOINT).exists()
    if max_steps is not None and max_steps <= 0 and not started:
        return 0, None
    series = plan.training_series(fold)
    objective = _build_objective(plan, fold, series)
    summary = fit(
        objective,
        Loader(
            plan.items_of(series),
            batch_size=share_of_batch(plan.recipe.batch_size),
            rank=process_rank(),
            world=n_processes(),
            seed=step_seed(plan.recipe.seed, fold),
            device=device,
            weights=plan.weights_of(series),
            targets=plan.training_targets(series),
            resident=resident,
        ),
        _make_fit_config(plan, fold),
        out=folder,
        device=device,
        max_steps=max_steps,
        resume=started,
        provenance=plan.provenance | {"fold": fold},
        on_log=lambda row: _log_row(plan, fold, row),
        monitors=monitors,
        name_items=lambda indices: [series.uids[index] for index in indices],
    )
    if not summary.finished:
        return summary.last_step, None
    # In every process: no other has to wait for the first one.
    table = predict_fold(plan, fold, objective.predictor, device, resident)
    if is_first_process():
        predictions.write_predictions(folder / predictions.FILE, table, plan.targets)
    return summary.last_step, table


def _build_objective(plan: FinetunePlan, fold: int, series: Series) -> ClassificationObjective:
    """The classifier of a fold with its initial weights, and its loss on `series`."""
    recipe = plan.recipe
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(step_seed(recipe.seed, fold))
        classifier = build_classifier(recipe)
    if plan.initial.weights is not None:
        classifier.backbone.load_state_dict(plan.initial.weights, strict=True)
    if isinstance(classifier.head, OrganQueryHead):
        classifier.head.set_prior(plan.geometry_of(series)[ORGAN_BOXES])
    weights = loss_weights(plan.classes_of(series), recipe.loss_targets)
    return ClassificationObjective(
        classifier,
        recipe.view,
        recipe.augmentation,
        weights,
        plan.window,
        recipe.attention_weight,
        slice_weight=recipe.slice_weight,
        ema_decay=recipe.ema_decay,
        mixup_alpha=recipe.mixup_alpha,
    )


def _make_fit_config(plan: FinetunePlan, fold: int) -> FitConfig:
    recipe, steps = plan.recipe, plan.count_steps(fold)
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
        amp_cpu=recipe.amp_cpu,
    )


def _check_run(run: Path, plan: FinetunePlan, *, resume: bool) -> None:
    """Raise InputError unless `run` can be written and is new, or has the same plan to resume."""
    check_run_folder(run, resume=False)
    exists = (run / checkpoint.RUN_FILE).exists()
    if exists and not resume:
        raise InputError(f"{run}: already holds a run; go on with --resume or give another --out")
    if resume and not exists:
        raise InputError(f"{run}: nothing to resume, it holds no {checkpoint.RUN_FILE}")
    if not exists:
        return
    before = checkpoint.read_run(run)
    now = _describe_run(plan, finished=False)
    changed = list_differences(before, now)
    for key, table in LABEL_TABLES.items():
        if before.get(key) != now.get(key):
            changed.append(table)
    if changed:
        raise InputError(f"{run}: cannot resume: {'; '.join(changed)}; give another --out")
    check_before_resume(run)


def _is_complete(run: Path) -> bool:
    """Whether a run is finished and lacks no file. Its files then stay as they are.

    Another version of a library might write other bytes, and an evaluation refuses changed files.
    """
    is_finished = bool(checkpoint.read_run(run).get("finished"))
    return is_finished and all((run / name).exists() for name in looks.FROZEN)


def _write_plan(run: Path, plan: FinetunePlan) -> None:
    """Write the description, split and labels of a run; the same again when it is resumed."""
    if (run / checkpoint.RUN_FILE).exists():
        mark_incomplete(run)
    else:
        checkpoint.write_run(run, _describe_run(plan, finished=False))
    keep_split(plan.whole_split, run)
    with atomic.replacing(run / LABELS) as temporary:
        make_labels_table(plan.labels).to_parquet(temporary, index=False)
    if plan.initial.seen is not None:
        plan.initial.seen.write(run)


def _describe_run(plan: FinetunePlan, *, finished: bool) -> dict[str, Any]:
    """Content of `RUN/run.json`."""
    return plan.provenance | {
        "labels_sha256": plan.labels.sha256,
        "patients": len(plan.labels),
        "series": len(plan.series),
        "pretraining": plan.initial.provenance,
        "exposure": plan.exposure.to_json(),
        "finished": finished,
    }


def make_labels_table(labels: Labels) -> pd.DataFrame:
    """Labels as a table with `patient_id` and the class of every group, one line per patient."""
    organs = {name: labels.organs[:, i] for i, name in enumerate(ORGAN_TARGETS.names)}
    return pd.DataFrame({"patient_id": list(labels.patient_ids)} | organs | labels.binary)


def _log_row(plan: FinetunePlan, fold: int, row: HistoryRow) -> None:
    log.info(
        "fold %d of %d: step %d of %d, loss %.4f",
        fold + 1,
        plan.recipe.n_folds,
        row["step"],
        plan.count_steps(fold),
        row["loss"],
    )
