"""The stage of 3D-to-2D networks: it trains on stores and writes a run folder.

RUN/run.json               recipe, provenance
RUN/split.json             the split, if there is one
RUN/patients.json          the patients that the run has learnt from
RUN/checkpoint.pt          the state of the training
RUN/history.csv            losses
RUN/networks.safetensors   weights of both planes
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from voco_data.errors import InputError
from voco_data.maintenance import pins
from voco_data.selection import SeenPatients
from voco_data.withdrawal import inherit_mark
from voco_models.data import Loader, Residence
from voco_models.processes import (
    is_first_process,
    join_processes,
    n_processes,
    process_rank,
    share_of_batch,
    wait_for_processes,
)
from voco_models.stages import recipe_options
from voco_models.stages.initial_weights import SCRATCH
from voco_models.stages.pretraining import name_items
from voco_models.stages.projection_plan import STAGE, ProjectionPlan, make_plan
from voco_models.stages.projection_recipes import ProjectionRecipe, projection_recipe
from voco_models.stages.projection_weights import NETWORKS, write_networks
from voco_models.stages.run_split import find_split, keep_split
from voco_models.training import (
    HistoryRow,
    Monitor,
    check_before_resume,
    check_run_folder,
    checkpoint,
    choose_device,
    complete_run,
    fit,
    to_plain,
)

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ProjectionSummary:
    """The steps, the loss and the files of a call of `project`."""

    run: Path
    recipe: str
    target: str
    device: str
    stores: tuple[str, ...]
    volumes: int
    patients: int
    """Patients that the run learns from: with the target `organs` those with masks, with the target
    `image` those with images."""
    left_out: dict[str, int]
    """Volumes of the stores that are not learnt from, by reason."""
    first_step: int
    last_step: int
    total_steps: int
    loss: float | None
    """Mean over the last steps; None if no step was taken."""
    notes: tuple[str, ...]
    """Deviations from the recipe, with reasons."""
    seconds: float
    """Time in training, over all resumes."""
    networks: Path

    def to_json(self) -> dict[str, object]:
        """The summary as plain JSON values."""
        values: dict[str, object] = to_plain(asdict(self))
        return values


def project(
    stores: Sequence[str | Path],
    out: str | Path,
    *,
    init: str | Path = SCRATCH,
    images: str | Path | None = None,
    recipe: str | Path | ProjectionRecipe = "default",
    changes: Sequence[str] = (),
    split: str | Path | None = None,
    transductive: bool = False,
    max_steps: int | None = None,
    resume: bool = False,
    device: str | torch.device | None = None,
    resident: Residence = "none",
    monitors: Sequence[Monitor] = (),
) -> ProjectionSummary:
    """Train 3D-to-2D networks for the coronal and the sagittal plane; write the run to `out`.

    With the recipe's target `organs` they learn maps of organs from the masks of the archive, else
    a second image of the same body, which needs no masks: a pretext from the volume, or one of
    `images`. All weights of such a run are the first ones of another with `init`.

    Parameters
    ----------
    stores : folders or URLs of stores of one spec, such as `localise`.
    out : folder of the run.
    init : `scratch`, or the folder of a run of `project`.
    images : a folder or a table of second images, for the target `image`; see
        `voco_data.paired_images`.
    recipe : a name, a `.toml` file, or a recipe.
    changes : `name=value` each, with the dotted name of an option.
    split : file of `voco split`, whose test patients are left out. A resumed run has its own.
    transductive : keep the test patients in.
    max_steps : step at which to stop, counted from the beginning of the run. It does not change the
        schedule.
    resume : continue the run in `out`.
    device : CUDA if available, else the CPU, if None.
    resident : keep all volumes in memory. Batches do not change.
    monitors : observe the training between steps.

    Raises
    ------
    InputError : before anything is written, for inputs that do not fit together.
    Diverged : if a loss or a weight is not finite.
    """
    if max_steps is not None and max_steps < 1:
        raise InputError(f"max steps: expected at least 1, got {max_steps}")
    run, chosen_device = Path(out), choose_device(device)
    join_processes(chosen_device)
    plan = make_plan(
        stores,
        projection_recipe(recipe, changes),
        init=init,
        split=find_split(split, run, resume=resume),
        transductive=transductive,
        images=images,
    )
    check_run_folder(run, resume=resume)  # before volumes are read
    if resume:
        check_before_resume(run)
    loader = _make_loader(plan, chosen_device, resident)
    for note in plan.notes:
        log.warning("%s", note)
    wait_for_processes()  # all have checked the folder
    name = recipe_options.recipe_label(recipe, changes)
    if is_first_process():
        _begin_run(run, plan, name, resume=resume)
        inherit_mark(init, run)
    summary = fit(
        plan.objective,
        loader,
        plan.recipe.fit,
        out=run,
        device=chosen_device,
        max_steps=max_steps,
        resume=resume,
        provenance=plan.provenance,
        on_log=_log_row,
        monitors=monitors,
        name_items=lambda indices: name_items(loader.items, indices),
    )
    if is_first_process():
        write_networks(run, dict(plan.objective.networks.items()), plan.provenance)
        complete_run(run, checkpoint.read_run(run))
    return ProjectionSummary(
        run=run,
        recipe=name,
        target=plan.recipe.target,
        device=str(chosen_device),
        stores=tuple(str(store.storage) for store in plan.stores),
        volumes=len(plan.items),
        patients=plan.series.count_patients(),
        left_out=plan.series.left_out,
        first_step=summary.first_step,
        last_step=summary.last_step,
        total_steps=summary.total_steps,
        loss=summary.loss,
        notes=plan.notes,
        seconds=summary.seconds,
        networks=run / NETWORKS,
    )


def _make_loader(plan: ProjectionPlan, device: torch.device, resident: Residence) -> Loader:
    """The loader of the volumes and their maps; of several processes, each has its share."""
    return Loader(
        plan.items,
        batch_size=share_of_batch(plan.recipe.batch_size),
        rank=process_rank(),
        world=n_processes(),
        seed=plan.recipe.fit.seed,
        device=device,
        weights=plan.series.weights,
        targets=plan.targets,
        resident=resident,
    )


def _begin_run(run: Path, plan: ProjectionPlan, name: str, *, resume: bool) -> None:
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
    if plan.seen is not None and not (resume and SeenPatients.is_written(run)):
        plan.seen.write(run)
    for store in plan.stores:
        pins.pin_store(store, run, STAGE)


def _log_row(row: HistoryRow) -> None:
    log.info("step %d, loss %.4f", row["step"], row["loss"])
