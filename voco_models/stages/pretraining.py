"""The self-supervised stage: stores in, a run folder with a backbone out."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from voco_data.errors import InputError
from voco_data.maintenance import pins
from voco_data.storage import is_url
from voco_data.store import Store, StoreSpec
from voco_models.data import Loader, Residence, input_window, items_of, step_seed
from voco_models.networks import create_encoder
from voco_models.objectives import CollapseWatch, Voco2d, constant_levels
from voco_models.stages import recipe_options
from voco_models.stages.pretrain_recipes import PretrainRecipe, pretrain_recipe
from voco_models.training import (
    Row,
    check_run_folder,
    checkpoint,
    choose_device,
    fit,
    make_provenance,
    recorded_values,
    to_plain,
)

log = logging.getLogger(__name__)

STAGE = "pretrain"


@dataclass(frozen=True, slots=True)
class PretrainSummary:
    """What the stage did."""

    run: Path
    recipe: str
    device: str
    stores: tuple[str, ...]
    volumes: int
    first_step: int
    last_step: int
    total_steps: int
    loss: float | None
    """Mean over the last steps; None if no step was left to take."""
    notes: tuple[str, ...]
    """Deviations from the recipe, and their reasons."""
    alarms: tuple[str, ...]
    """Signs of collapse."""
    seconds: float
    """Time in training, over all resumes."""
    checkpoint: Path
    backbone: Path
    history: Path

    def to_json(self) -> dict[str, object]:
        """The same as plain JSON values."""
        values: dict[str, object] = to_plain(asdict(self))
        return values


def pretrain(
    stores: Sequence[str | Path],
    out: str | Path,
    *,
    recipe: str | Path | PretrainRecipe = "default",
    changes: Sequence[str] = (),
    max_steps: int | None = None,
    resume: bool = False,
    device: str | torch.device | None = None,
    resident: Residence = "none",
) -> PretrainSummary:
    """Pretrain a backbone with 2D-VoCo on every volume of `stores`; write the run to `out`.

    `recipe` is a name, a `.toml` file or a value; each of `changes` is `name=value` with the dotted
    name of an option. `max_steps` counts from the beginning of the run and only stops it; continue
    with `resume`.
    `resident` keeps all volumes in memory, and changes no batch.
    Everything is checked before anything is written: InputError for a folder that is no store,
    stores that fit neither each other nor the recipe, an empty store, an unknown recipe, a place
    that cannot be written, a run that exists already, or none to resume. Diverged if the loss is
    not finite.
    """
    name = recipe_options.label(recipe, changes)
    given = pretrain_recipe(recipe, changes)
    if max_steps is not None and max_steps < 1:
        raise InputError(f"max steps: expected at least 1, got {max_steps}")
    target = choose_device(device)
    opened = open_matching(stores)
    items = items_of(opened)
    used, notes = adapt_to_volumes(given, len(items))
    objective = build_objective(used, opened[0].spec)
    # Batch norm needs two rows: a single volume is repeated, with different random crops.
    repeated = items if len(items) > 1 else items * used.batch_size
    check_run_folder(Path(out), resume=resume)  # before volumes are read
    loader = Loader(
        repeated,
        batch_size=used.batch_size,
        seed=used.fit.seed,
        device=target,
        resident=resident,
    )
    watch = CollapseWatch(constant_levels(objective.plan, used.voco.target, used.voco.loss))
    run = Path(out)

    for note in notes:
        log.warning("%s", note)
    provenance = make_provenance(STAGE, recorded_values(used), opened)
    if not resume:
        checkpoint.write_run(
            run, {"stage": STAGE, "recipe_name": name, "notes": notes, "provenance": provenance}
        )
    for store in opened:
        pins.pin_store(store, run, STAGE)
    if used.compile and target.type == "cuda":
        objective.compile_backbones()

    def on_log(row: Row) -> None:
        watch(row)
        log.info(
            "step %d of %d: loss %.4f (intra %.4f, inter %.4f, reg %.4f), rank %.1f, %.0f s",
            row["step"],
            used.fit.total_steps,
            row["loss"],
            row["intra"],
            row["inter"],
            row["reg"],
            row["rank"],
            row["seconds"],
        )

    fitted = fit(
        objective,
        loader,
        used.fit,
        out=run,
        device=target,
        max_steps=max_steps,
        resume=resume,
        provenance=provenance,
        on_log=on_log,
    )
    return PretrainSummary(
        run=run,
        recipe=name,
        device=str(target),
        stores=tuple(str(store.storage) for store in opened),
        volumes=len(items),
        first_step=fitted.first_step,
        last_step=fitted.last_step,
        total_steps=fitted.total_steps,
        loss=fitted.loss,
        notes=tuple(notes),
        alarms=tuple(watch.alarms),
        seconds=fitted.seconds,
        checkpoint=fitted.checkpoint,
        backbone=checkpoint.save_backbone(run, objective.student.backbone, provenance),
        history=fitted.history,
    )


def open_matching(paths: Sequence[str | Path]) -> list[Store]:
    """Open stores to be trained on together. InputError unless grid and window are the same in all,
    none is empty and none is given twice.
    """
    if not paths:
        raise InputError("stores: expected at least one store, got none")
    if len({path if is_url(path) else Path(path).resolve() for path in paths}) < len(paths):
        raise InputError("stores: the same store was given twice; give each store once")
    stores = [Store.open(path) for path in paths]
    first = stores[0]
    for store in stores:
        if not len(store):
            raise InputError(
                f"{store.storage}: the store holds no volumes; preprocess series into it"
            )
        for name, expected, found in (
            ("grid", first.grid, store.grid),
            ("window level", first.spec.window_level_hu, store.spec.window_level_hu),
            ("window width", first.spec.window_width_hu, store.spec.window_width_hu),
            ("quantisation", first.spec.quantisation, store.spec.quantisation),
        ):
            if expected != found:
                raise InputError(
                    f"{store.storage}: {name} {found} differs from {expected} of {first.storage}; "
                    "give stores of one spec"
                )
    return stores


def adapt_to_volumes(recipe: PretrainRecipe, volumes: int) -> tuple[PretrainRecipe, list[str]]:
    """The recipe for this number of volumes, and notes on what was changed. Usually nothing is.

    A batch never holds more volumes than there are. A single volume has no other one to be compared
    with, so the inter-volume loss is off, and the batch is that volume twice with different random
    crops.
    """
    if volumes >= max(2, recipe.batch_size):
        return recipe, []
    if volumes > 1:
        note = f"only {volumes} volumes: the batch size is {volumes} instead of {recipe.batch_size}"
        return dataclasses.replace(recipe, batch_size=volumes), [note]
    notes = ["only 1 volume: every batch is that volume twice, with different random crops"]
    voco = recipe.voco
    if voco.loss.inter != "off":
        notes.append("only 1 volume: the inter-volume loss is off, it needs two")
        voco = dataclasses.replace(voco, loss=dataclasses.replace(voco.loss, inter="off"))
    return dataclasses.replace(recipe, batch_size=2, voco=voco), notes


def build_objective(recipe: PretrainRecipe, spec: StoreSpec) -> Voco2d:
    """The objective for stores of `spec`, with fresh weights, a function of the recipe's seed."""
    plane = spec.grid[1], spec.grid[2]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(step_seed(recipe.fit.seed, 0))
        crop_px = recipe.voco.crop_plan(plane).size
        encoder = create_encoder(recipe.backbone, crop_px, recipe.voco.encoder_options)
        return Voco2d(encoder, plane, recipe.voco, input_window(None, spec))
