"""The stage of pretraining: it trains on stores and writes a run folder with a backbone."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from voco_data.errors import InputError
from voco_data.maintenance import pins
from voco_data.selection import SeenPatients, open_pinned
from voco_data.store import Store
from voco_data.withdrawal import inherit_mark
from voco_models.data import Item, Loader, Residence
from voco_models.evaluation import check_matplotlib
from voco_models.processes import (
    is_first_process,
    join_processes,
    n_processes,
    process_rank,
    share_of_batch,
    wait_for_processes,
)
from voco_models.stages import recipe_options
from voco_models.stages.compiler import check_compiler
from voco_models.stages.initial_weights import SCRATCH
from voco_models.stages.pretrain_monitors import (
    ALARMS,
    LearningWatch,
    make_monitors,
    write_health,
)
from voco_models.stages.pretrain_page import PAGE
from voco_models.stages.pretrain_plan import STAGE, PretrainPlan, make_plan
from voco_models.stages.pretrain_recipes import PretrainRecipe, pretrain_recipe
from voco_models.stages.run_split import find_split, keep_split
from voco_models.training import (
    HEALTH,
    HISTORY,
    PROBES,
    WEIGHTS,
    FitSummary,
    Interruption,
    Monitor,
    check_before_resume,
    check_run_folder,
    checkpoint,
    choose_device,
    complete_run,
    export_backbone,
    fit,
    read_history,
    to_plain,
)

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PretrainSummary:
    """The steps, the loss and the files of a call of `pretrain`."""

    run: Path
    recipe: str
    device: str
    stores: tuple[str, ...]
    volumes: int
    patients: int
    left_out: dict[str, int]
    """Volumes of the stores that are not learnt from, by reason."""
    transductive: bool
    """Whether test patients of the split are kept in. False without a split."""
    first_step: int
    last_step: int
    total_steps: int
    loss: float | None
    """Mean over the last steps; None if no step was taken."""
    notes: tuple[str, ...]
    """Deviations from the recipe, with reasons."""
    alarms: tuple[str, ...]
    """Signs that the network learns nothing, or has collapsed; from `CollapseWatch`."""
    seconds: float
    """Time in training, over all resumes."""
    checkpoint: Path
    backbone: Path
    export: Path
    """The backbone for other programs, `backbone.safetensors`; its card is `backbone.json`."""
    history: Path
    report: Path
    """The page of the run: alarms, losses, ranks, probes, speed."""

    def to_json(self) -> dict[str, object]:
        """The summary as plain JSON values."""
        values: dict[str, object] = to_plain(asdict(self))
        return values


def pretrain(
    stores: Sequence[str | Path | Store],
    out: str | Path,
    *,
    init: str | Path = SCRATCH,
    recipe: str | Path | PretrainRecipe = "default",
    changes: Sequence[str] = (),
    split: str | Path | None = None,
    transductive: bool = False,
    max_steps: int | None = None,
    resume: bool = False,
    device: str | torch.device | None = None,
    resident: Residence = "none",
    rows: str | Path | None = None,
    monitors: Sequence[Monitor] = (),
) -> PretrainSummary:
    """Pretrain a backbone with 2D-VoCo on volumes of `stores`; write the run to `out`.

    It learns from all volumes that the recipe selects, without those of the split's test patients.
    The processes of `torchrun` train together; each has its share of every batch of the recipe.

    Parameters
    ----------
    stores : open stores, or folders or URLs of them, of one grid and window.
    out : folder of the run.
    init : `scratch`, `imagenet`, a file of weights, or the folder of a pretraining run.
    recipe : a name, a `.toml` file, or a recipe.
    changes : `name=value` each, with the dotted name of an option.
    split : file of `voco split`, whose test patients are left out. A resumed run has its own.
    transductive : keep the test patients in. What is scored on them later is then transductive.
    max_steps : step at which to stop, counted from the beginning of the run. It does not change the
        schedule.
    resume : continue the run in `out`.
    device : CUDA if available, else the CPU, if None.
    resident : keep all volumes in memory. Batches do not change.
    rows : file of `PinnedRows`: the stores are read as if they had no other rows.
    monitors : observe the training between steps.

    Raises
    ------
    InputError : before anything is written, for a folder that is no store, an empty store, stores
        that do not fit together or to the recipe, an unknown recipe, a selection that names test
        patients or leaves no volume, first weights that have seen test patients, and a folder `out`
        that cannot be written, has a run already, or has none to resume.
    Diverged : if a loss or a weight is not finite. The step is in RUN/nonfinite.pt; see `replay`.
    """
    name = recipe_options.recipe_label(recipe, changes)
    requested = pretrain_recipe(recipe, changes)
    if max_steps is not None and max_steps < 1:
        raise InputError(f"max steps: expected at least 1, got {max_steps}")
    run, chosen_device = Path(out), choose_device(device)
    if requested.compiles_on(chosen_device):
        check_compiler(chosen_device)
    check_matplotlib()  # the page is drawn after the last step
    join_processes(chosen_device)
    frozen = find_split(split, run, resume=resume)
    chosen = stores if rows is None else [open_pinned(store, Path(rows)) for store in stores]
    plan = make_plan(chosen, requested, init=init, split=frozen, transductive=transductive)
    check_run_folder(run, resume=resume)  # before volumes are read
    if resume:
        check_before_resume(run)
    loader = make_loader(plan, chosen_device, resident)
    watch = LearningWatch(plan, checkpoint.read_run(run).get(ALARMS, ()) if resume else ())
    for note in plan.notes:
        log.warning("%s", note)
    wait_for_processes()  # all have checked the folder
    if is_first_process():
        _begin_run(run, plan, name, resume=resume)
        inherit_mark(init, run)
    if plan.recipe.compiles_on(chosen_device):
        plan.objective.compile_backbones()
    # A signal is raised again when the page is written.
    with Interruption():
        summary = _fit(run, plan, loader, watch, chosen_device, max_steps, resume, monitors)
    if is_first_process():
        _write_backbone(run, plan, summary.last_step)
        complete_run(run, checkpoint.read_run(run))
    return PretrainSummary(
        run=run,
        recipe=name,
        device=str(chosen_device),
        stores=tuple(str(store.storage) for store in plan.stores),
        volumes=len(plan.items),
        patients=plan.series.count_patients(),
        left_out=plan.series.left_out,
        transductive=plan.series.transductive,
        first_step=summary.first_step,
        last_step=summary.last_step,
        total_steps=summary.total_steps,
        loss=summary.loss,
        notes=plan.notes,
        alarms=tuple(watch.alarms),
        seconds=summary.seconds,
        checkpoint=summary.checkpoint,
        backbone=run / checkpoint.BACKBONE,
        export=run / WEIGHTS,
        history=summary.history,
        report=run / PAGE,
    )


def make_loader(plan: PretrainPlan, device: torch.device, resident: Residence) -> Loader:
    """The loader of the volumes to learn from; of several processes, each has its share."""
    items, recipe = plan.items, plan.recipe
    return Loader(
        # Batch norm needs two rows, so a single volume is repeated, with different random crops.
        items if len(items) > 1 else items * recipe.batch_size,
        batch_size=share_of_batch(recipe.batch_size),
        rank=process_rank(),
        world=n_processes(),
        seed=recipe.fit.seed,
        device=device,
        weights=plan.weights if len(items) > 1 else None,
        resident=resident,
        shuffle=recipe.shuffle,
    )


def _begin_run(run: Path, plan: PretrainPlan, name: str, *, resume: bool) -> None:
    """Write what is known before the first step: provenance, split, patients and pins."""
    if not resume:
        checkpoint.write_run(
            run,
            {
                "stage": STAGE,
                "recipe_name": name,
                "notes": list(plan.notes),
                "provenance": plan.provenance,
            },
        )
        keep_split(plan.split, run)
    # Runs of older versions lack the file; and without it, the patients count as unknown.
    if plan.seen is not None and not (resume and SeenPatients.is_written(run)):
        plan.seen.write(run)
    for store in plan.stores:
        pins.pin_store(store, run, STAGE)


def _fit(
    run: Path,
    plan: PretrainPlan,
    loader: Loader,
    watch: LearningWatch,
    device: torch.device,
    max_steps: int | None,
    resume: bool,
    monitors: Sequence[Monitor],
) -> FitSummary:
    """Train, and write the health of the run, also after an error in training."""
    try:
        summary = fit(
            plan.objective,
            loader,
            plan.recipe.fit,
            out=run,
            device=device,
            max_steps=max_steps,
            resume=resume,
            provenance=plan.provenance,
            on_log=watch,
            monitors=[*make_monitors(run, plan, watch, device), *monitors],
            name_items=lambda indices: name_items(loader.items, indices),
        )
    except InputError:  # nothing has been written
        raise
    except BaseException:  # such as a loss that is not finite
        write_health(run, watch.alarms)
        raise
    write_health(run, watch.alarms)
    return summary


def _write_backbone(run: Path, plan: PretrainPlan, step: int) -> None:
    """Write the student's backbone: for other stages, and for other programs."""
    backbone, provenance = plan.objective.student.backbone, plan.provenance
    checkpoint.save_backbone(run, backbone, provenance)
    export_backbone(run, backbone, provenance, step=step, scores=_read_scores(run))


def _read_scores(run: Path) -> dict[str, dict[str, float]] | None:
    """The last row of each table of the run, by table, as the scores of its card."""
    tables = {"training": HISTORY, "signals": HEALTH, "held_out": PROBES}
    rows = {name: read_history(run, file) for name, file in tables.items()}
    return {name: dict(found[-1]) for name, found in rows.items() if found} or None


def name_items(items: Sequence[Item], indices: Sequence[int]) -> list[str]:
    """Row, store and series of items, with the ids that the store has."""
    names = []
    for item in (items[index] for index in indices):
        assert isinstance(item.store, Store)
        table = item.store.catalogue
        (series,) = table.loc[table["row"] == item.row, "series_uid"]
        names.append(f"{series} (row {item.row} of {item.store.storage.name})")
    return names
