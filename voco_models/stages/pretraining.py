"""The stage of pretraining: it trains on stores and writes a run folder with a backbone."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from voco_data.errors import InputError
from voco_data.maintenance import pins
from voco_data.selection import SeenPatients
from voco_data.storage import is_url
from voco_data.store import Store, StoreSpec
from voco_models.data import Item, Loader, Residence, input_window, step_seed
from voco_models.networks import create_encoder
from voco_models.objectives import (
    CollapseWatch,
    HeldOutProbe,
    Voco2d,
    WeightMovement,
    constant_cosine_losses,
    within_correlation,
)
from voco_models.stages import recipe_options
from voco_models.stages.held_out_patients import hold_out_patients
from voco_models.stages.initial_weights import SCRATCH, InitialWeights, load_initial_weights
from voco_models.stages.pretrain_page import PAGE, write_page
from voco_models.stages.pretrain_recipes import PretrainRecipe, pretrain_recipe
from voco_models.stages.pretrain_series import check_initial_weights, select_pretraining_series
from voco_models.stages.run_split import find_split, keep_split
from voco_models.training import (
    HistoryRow,
    Monitor,
    ProbeMonitor,
    SpeedMonitor,
    check_run_folder,
    checkpoint,
    choose_device,
    export_backbone,
    fit,
    make_provenance,
    to_plain,
    values_to_record,
    write_tensorboard,
)

log = logging.getLogger(__name__)

STAGE = "pretrain"
PROBE_BATCHES = 8
"""Batches of held-out volumes that a probe looks at."""
ALARMS = "alarms"
"""Entry of `run.json`: the alarms of the run so far, over all resumes."""


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
    stores: Sequence[str | Path],
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
    monitors: Sequence[Monitor] = (),
) -> PretrainSummary:
    """Pretrain a backbone with 2D-VoCo on volumes of `stores`; write the run to `out`.

    It learns from all volumes that the recipe selects, without those of the split's test patients.

    Parameters
    ----------
    stores : folders or URLs of stores of one grid and window.
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
    chosen_device = choose_device(device)
    opened = open_stores(stores)
    run = Path(out)
    frozen = find_split(split, run, resume=resume)
    chosen = select_pretraining_series(
        opened, requested.selection, frozen, transductive=transductive
    )
    items = [Item(opened[position], row) for position, row in chosen.positions]
    weights, probed = chosen.weights, list[Item]()
    if requested.probe_every:
        items, probed, weights = hold_out_patients(opened, items, requested.probe_fraction, weights)
    adapted, notes = adapt_recipe(requested, len(items))
    initial = load_initial_weights(init, adapted.backbone)
    check_initial_weights(initial, init, opened, frozen, transductive=transductive)
    objective = build_objective(adapted, opened[0].spec, initial)
    check_run_folder(run, resume=resume)  # before volumes are read
    loader = Loader(
        # Batch norm needs two rows, so a single volume is repeated, with different random crops.
        items if len(items) > 1 else items * adapted.batch_size,
        batch_size=adapted.batch_size,
        seed=adapted.fit.seed,
        device=chosen_device,
        weights=weights if len(items) > 1 else None,
        resident=resident,
        shuffle=adapted.shuffle,
    )
    watch = CollapseWatch(
        constant_cosine_losses(objective.plan, adapted.voco.target, adapted.voco.loss),
        warmup_steps=adapted.fit.warmup_steps,
        total_steps=adapted.fit.total_steps,
        alarms=checkpoint.read_run(run).get(ALARMS, ()) if resume else (),
    )
    student = objective.student
    movement = WeightMovement({"backbone": student.backbone, "projector": student.projector})

    for note in notes:
        log.warning("%s", note)
    provenance = make_provenance(
        STAGE,
        values_to_record(adapted),
        opened,
        split=chosen.split_digest,
        init=None if initial.name == SCRATCH else initial.name,  # as runs before `init` recorded it
        selection=chosen.describe(),
    )
    provenance["initial_weights"] = initial.to_json()
    # With the patients held out for probes: choices are made by what is measured on them.
    seen = initial.add_seen(SeenPatients.of_series(opened, chosen.series))
    provenance["seen_patients"] = None if seen is None else seen.digest
    if not resume:
        checkpoint.write_run(
            run, {"stage": STAGE, "recipe_name": name, "notes": notes, "provenance": provenance}
        )
        keep_split(frozen, run)
    # Runs of older versions lack the file; and without it, the patients count as unknown.
    if seen is not None and not (resume and SeenPatients.is_written(run)):
        seen.write(run)
    for store in opened:
        pins.pin_store(store, run, STAGE)
    if adapted.compile and chosen_device.type == "cuda":
        objective.compile_backbones()

    signals: dict[str, float] = {}

    def on_log(row: HistoryRow) -> None:
        taken, moved = objective.signals.take(), movement.measure()
        watch(row, signals=taken, movement=moved)
        signals.update({f"movement_{part}": value for part, value in moved.items()})
        if taken is not None:
            signals["teacher_rank"] = taken.teacher_rank
            signals["correlation"] = within_correlation(taken.sums)
        log.info(
            "step %d of %d: loss %.4f (intra %.4f, inter %.4f, reg %.4f), rank %.1f, %.0f s",
            row["step"],
            adapted.fit.total_steps,
            row["loss"],
            row["intra"],
            row["inter"],
            row["reg"],
            row["rank"],
            row["seconds"],
        )

    own_monitors: list[Monitor] = [
        SpeedMonitor(
            run,
            lambda: signals,
            every=adapted.fit.log_every,
            crops_per_step=count_crops(adapted, opened[0].grid),
            last=adapted.fit.total_steps,
        )
    ]
    if probed:
        own_monitors.append(make_probe_monitor(run, probed, adapted, chosen_device))
    summary = fit(
        objective,
        loader,
        adapted.fit,
        out=run,
        device=chosen_device,
        max_steps=max_steps,
        resume=resume,
        provenance=provenance,
        on_log=on_log,
        monitors=[*own_monitors, *monitors],
        name_items=lambda indices: name_items(loader.items, indices),
    )
    checkpoint.write_run(run, checkpoint.read_run(run) | {ALARMS: watch.alarms})
    tables = write_page(run)
    write_tensorboard(run, tables)
    export = export_backbone(run, student.backbone, provenance, step=summary.last_step)
    return PretrainSummary(
        run=run,
        recipe=name,
        device=str(chosen_device),
        stores=tuple(str(store.storage) for store in opened),
        volumes=len(items),
        patients=chosen.count_patients(),
        left_out=chosen.left_out,
        transductive=chosen.transductive,
        first_step=summary.first_step,
        last_step=summary.last_step,
        total_steps=summary.total_steps,
        loss=summary.loss,
        notes=tuple(notes),
        alarms=tuple(watch.alarms),
        seconds=summary.seconds,
        checkpoint=summary.checkpoint,
        backbone=checkpoint.save_backbone(run, objective.student.backbone, provenance),
        export=export,
        history=summary.history,
        report=run / PAGE,
    )


def count_crops(recipe: PretrainRecipe, grid: tuple[int, int, int]) -> int:
    """Slice images of crops that a step trains on."""
    stride = min(recipe.voco.slice_stride, grid[0])
    columns = recipe.voco.grid**2 + recipe.voco.n_random
    return recipe.fit.accumulate * recipe.batch_size * columns * -(-grid[0] // stride)


def make_probe_monitor(
    run: Path, items: Sequence[Item], recipe: PretrainRecipe, device: torch.device
) -> ProbeMonitor:
    """The probe of the pretext on the held-out `items`, at most `PROBE_BATCHES` batches of them."""
    size = min(len(items), recipe.batch_size)
    # The inter-volume loss and batch norm need two volumes.
    repeated = list(items) if size > 1 else list(items) * 2
    loader = Loader(repeated, batch_size=max(2, size), seed=recipe.fit.seed, device=device)
    probe = HeldOutProbe(loader, min(PROBE_BATCHES, loader.steps_per_epoch))
    return ProbeMonitor(run, [probe], every=recipe.probe_every)


def name_items(items: Sequence[Item], indices: Sequence[int]) -> list[str]:
    """Row, store and series of items, with the ids that the store has."""
    names = []
    for item in (items[index] for index in indices):
        assert isinstance(item.store, Store)
        table = item.store.catalogue
        (series,) = table.loc[table["row"] == item.row, "series_uid"]
        names.append(f"{series} (row {item.row} of {item.store.storage.name})")
    return names


def open_stores(paths: Sequence[str | Path]) -> list[Store]:
    """Open stores for one training.

    Raises InputError if they differ in grid, window or voxel type, if one is empty, and if one is
    given twice.
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
        for name, expected, actual in (
            ("grid", first.grid, store.grid),
            ("window level", first.spec.window_level_hu, store.spec.window_level_hu),
            ("window width", first.spec.window_width_hu, store.spec.window_width_hu),
            ("quantisation", first.spec.quantisation, store.spec.quantisation),
        ):
            if expected != actual:
                raise InputError(
                    f"{store.storage}: {name} {actual} differs from {expected} of {first.storage}; "
                    "give stores of one spec"
                )
    return stores


def adapt_recipe(recipe: PretrainRecipe, volumes: int) -> tuple[PretrainRecipe, list[str]]:
    """The recipe for a number of volumes, and a note on each change. Usually it is unchanged.

    A batch has at most as many volumes as there are. For a single volume, the inter-volume loss is
    off, and the batch is this volume twice with different random crops.
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


def build_objective(
    recipe: PretrainRecipe, spec: StoreSpec, initial: InitialWeights | None = None
) -> Voco2d:
    """The objective for stores of `spec`; its fresh weights are a function of the recipe's seed.

    The backbones of student and teacher start from `initial`.
    """
    plane = spec.grid[1], spec.grid[2]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(step_seed(recipe.fit.seed, 0))
        crop_px = recipe.voco.crop_plan(plane).size
        encoder = create_encoder(recipe.backbone, crop_px, recipe.voco.encoder_options)
        if initial is not None and initial.weights is not None:
            encoder.backbone.load_state_dict(initial.weights, strict=True)
        objective = Voco2d(encoder, plane, recipe.voco, input_window(None, spec))
    objective.set_recompute(recipe.recompute)
    return objective
