"""`voco bench localisers`: boxes of organs by several localisers, from the same few masks.

mean_box        the mean place of each organ in the training series; it sees no image
profile         the ends of the abdomen from HU, as `voco preprocess` finds them; it sees no mask
fpn, ...        3D-to-2D networks of `voco project`
unet_3d         MONAI's 3D U-Net on the masks in 3D, as many steps as the networks
unet_3d_time    the same, for the time that the first network took

All are scored on the same test series with masks at full resolution. docs/bench.md has the columns.
"""

from __future__ import annotations

import dataclasses
import logging
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from voco_data.errors import InputError
from voco_data.selection import SeenPatients, read_split, update_split
from voco_data.store import MaskReader, ProfileBox, Record, Store
from voco_models.bench.localiser_scores import PROFILE, score_localisers
from voco_models.bench.localiser_training import (
    Localiser,
    Setting,
    read_organ_volumes,
    train_projection,
    train_unet,
)
from voco_models.bench.runner import describe_machine
from voco_models.localisation import (
    ABDOMEN,
    OrganBox,
    ScoredSeries,
    mean_boxes,
    place_in,
    read_truth,
)
from voco_models.networks import PROJECTION_NETWORKS
from voco_models.stages import ProjectionRecipe, projection_recipe, read_records
from voco_models.training import choose_device, current_commit

log = logging.getLogger(__name__)

MEAN_BOX, UNET = "mean_box", "unet_3d"
UNET_TIME = f"{UNET}_time"
DEFAULT_NETWORKS = ("fpn", "depth_max", "unet_2d", UNET)
FOLDER = "localisers"
"""Default folder of the runs, in the working directory."""
TEST_SHARE = 0.3

CAVEATS = (
    "Learnt localisers and the mean box have the same masks; the profile needs none.",
    "The profile ends at the floor of the pelvis, below the bowel: see bottom_bias_mm.",
    "Errors are over faces that were found: see missed.",
    "3D-to-2D networks and unet_3d take the same steps; unet_3d_time takes the time of the first.",
    "A 3D-to-2D localiser is two networks, one for each plane; its cost is that of both.",
    "saved_bytes: what autograd keeps of a training batch; inference_bytes: tensors of one scan.",
    "No option was tuned for any of the localisers.",
)
"""Printed below the rows."""
NOT_INSTALLED = "not installed"


def bench(
    store: str | Path | Store,
    masks: MaskReader,
    *,
    recipe: str | Path | ProjectionRecipe = "default",
    changes: Sequence[str] = (),
    split: str | Path | None = None,
    networks: Sequence[str] = (),
    n_masks: int = 10,
    steps: int | None = None,
    seeds: int = 1,
    margin_mm: float = 15.0,
    out: str | Path = FOLDER,
    device: str | torch.device | None = None,
) -> dict[str, Any]:
    """Train and compare the localisers; returns rows, and what they were made of.

    Parameters
    ----------
    store : a store with masks, such as one of the spec `localise`.
    masks : reads the masks of the store again.
    recipe, changes : as for `project`, with the target `organs`. Network and masks are not used.
    split : file of `voco split`, whose test patients are scored; a new one in `out` if None.
    networks : of `voco project`, and `unet_3d`; `DEFAULT_NETWORKS` if empty. At least one is of
        `voco project`.
    n_masks : patients whose masks are learnt from. Which ones depends on the seed.
    steps : of each training; those of the recipe if None.
    seeds : trainings of each localiser, from the seed of the recipe on.
    margin_mm : of the boxes whose kept voxels are counted.
    out : folder of the runs. A call that was stopped goes on there.
    device : CUDA if available, else the CPU, if None.

    Raises
    ------
    InputError : for an unknown network, and inputs that do not fit together.
    """
    chosen, target = _choose_networks(networks), choose_device(device)
    given = projection_recipe(recipe, changes)
    _check(given, seeds, margin_mm)
    opened = store if isinstance(store, Store) else Store.open(store)
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    file = _find_split(split, opened, folder)
    cases, test = _find_test_series(opened, given, read_split(file).test)
    profiles = {m.record.row: m.profile_box for m in masks.read([case.row for case in cases])}
    localisers = [_localise_by_profile(cases, profiles)]
    learnt: list[dict[str, int]] = []
    create = _find_unet() if UNET in chosen else None
    for seed in range(given.fit.seed, given.fit.seed + seeds):
        setting = Setting(
            store=opened,
            recipe=_recipe_of_seed(given, seed, n_masks, steps),
            split=file,
            folder=folder / f"seed-{seed}",
            test=test,
            device=target,
        )
        trained = [train_projection(setting, name) for name in chosen if name != UNET]
        records = _find_learnt(setting, chosen[0])
        learnt.append({"seed": seed, "patients": n_masks, "series": len(records)})
        localisers += [_localise_by_mean(setting, records, cases), *trained]
        if create is not None:
            localisers += _train_unets(setting, records, masks, create, trained[0])
    scores = score_localisers(localisers, cases, masks, margin_mm)
    if UNET in chosen and create is None:
        scores["rows"].append(
            dict.fromkeys(scores["rows"][0]) | {"name": UNET, "unit": NOT_INSTALLED}
        )
    return scores | {
        "test_patients": len({case.patient_id for case in cases}),
        "test_series": len(cases),
        "learnt_from": learnt,
        "margin_mm": margin_mm,
        "recipe": str(recipe) if isinstance(recipe, (str, Path)) else "given",
        "changes": list(changes),
        "batch_size": given.batch_size,
        "grid": list(opened.grid),
        "split": read_split(file).digest,
        "runs": str(folder),
        "caveats": [{"caveat": text} for text in CAVEATS],
        "commit": current_commit(),
        "machine": describe_machine() | {"threads": torch.get_num_threads()},
    }


def _choose_networks(names: Sequence[str]) -> list[str]:
    """Those of `voco project` first, in the order in which they are given."""
    allowed = (*PROJECTION_NETWORKS, UNET)
    unknown = [name for name in names if name not in allowed]
    if unknown:
        raise InputError(f"network: expected some of {', '.join(allowed)}, got {unknown[0]!r}")
    chosen = list(dict.fromkeys(names or DEFAULT_NETWORKS))
    if chosen == [UNET]:
        raise InputError(
            f"network: expected at least one of {', '.join(PROJECTION_NETWORKS)}, whose masks "
            f"{UNET} gets, got {UNET} alone"
        )
    return sorted(chosen, key=lambda name: name == UNET)


def _check(recipe: ProjectionRecipe, seeds: int, margin_mm: float) -> None:
    if recipe.target != "organs":
        raise InputError(f"recipe: expected the target organs, got {recipe.target}")
    if seeds < 1:
        raise InputError(f"seeds: expected at least 1, got {seeds}")
    if not 0 <= margin_mm < 1000:
        raise InputError(f"margin: expected 0 to below 1000 mm, got {margin_mm}")


def _find_split(split: str | Path | None, store: Store, folder: Path) -> Path:
    if split is not None:
        return Path(split)
    file = folder / "split.json"
    if not file.exists():
        update_split(store, file, test_share=TEST_SHARE, n_folds=2)
    return file


def _find_test_series(
    store: Store, recipe: ProjectionRecipe, test: Sequence[str]
) -> tuple[list[ScoredSeries], list[Record]]:
    """The series with masks of the patients of `test`."""
    table = store.catalogue
    rows = table["row"][table["patient_id"].astype(str).isin(test)]
    records = read_records(store, [int(row) for row in rows])
    truths = [read_truth(record, recipe.organs) for record in records]
    kept = [(r, truth) for r, truth in zip(records, truths, strict=True) if truth.is_known]
    if not kept:
        raise InputError(
            f"split: none of the {len(test)} test patients has a mask of "
            f"{', '.join(recipe.organs)} in the store; give a split whose test patients have masks"
        )
    cases = [
        ScoredSeries(r.row, r.series_uid, r.patient_id, truth.with_regions((ABDOMEN,)))
        for r, truth in kept
    ]
    return cases, [record for record, _ in kept]


def _recipe_of_seed(
    recipe: ProjectionRecipe, seed: int, n_masks: int, steps: int | None
) -> ProjectionRecipe:
    total = recipe.fit.total_steps if steps is None else steps
    fit = dataclasses.replace(
        recipe.fit,
        seed=seed,
        total_steps=total,
        warmup_steps=min(recipe.fit.warmup_steps, total),
    )
    return dataclasses.replace(recipe, fit=fit, masks=n_masks)


def _find_learnt(setting: Setting, network: str) -> list[Record]:
    """The series that the run of a network has learnt from."""
    seen = SeenPatients.read(setting.folder / network)
    assert seen is not None
    digests = {
        digest for part in seen.stores for group in part.contents.values() for digest in group
    }
    table = setting.store.catalogue
    patients = {patient for part in seen.stores for patient in part.contents}
    is_learnt = table["patient_id"].astype(str).isin(patients) & table["content_digest"].isin(
        digests
    )
    return read_records(setting.store, [int(row) for row in table["row"][is_learnt]])


def _localise_by_profile(
    cases: Sequence[ScoredSeries], profiles: dict[int, ProfileBox]
) -> Localiser:
    missing = len(cases) - len(profiles)
    if missing:
        raise InputError(
            f"archive: it lacks the masks of {missing} of the {len(cases)} test series; give the "
            "archive that the store was filled from"
        )
    found = [profiles[case.row] for case in cases]
    boxes = [{ABDOMEN: OrganBox(box.low_mm, box.high_mm, box.confidence)} for box in found]
    return Localiser(PROFILE, 0, boxes, inference_s=statistics.median(b.seconds for b in found))


def _localise_by_mean(
    setting: Setting, records: Sequence[Record], cases: Sequence[ScoredSeries]
) -> Localiser:
    truths = [read_truth(record, setting.recipe.organs) for record in records]
    means = mean_boxes([truth.organs for truth in truths], [truth.volume for truth in truths])
    boxes = [
        {organ: place_in(case.truth.volume, mean) for organ, mean in means.items()}
        for case in cases
    ]
    return Localiser(MEAN_BOX, setting.recipe.fit.seed, boxes)


CreateUnet = Callable[[Sequence[int], int], nn.Module]


def _find_unet() -> CreateUnet | None:
    """What makes MONAI's U-Net; None if MONAI is not installed."""
    try:
        from voco_models.bench.peers.monai_unet import create_unet
    except ModuleNotFoundError as error:
        log.warning("%s: %s is not installed; it is left out", UNET, error.name)
        return None
    return create_unet


def _train_unets(
    setting: Setting,
    records: Sequence[Record],
    masks: MaskReader,
    create: CreateUnet,
    reference: Localiser,
) -> list[Localiser]:
    """The U-Net with as many steps as the networks, and with as much time as the first of them."""
    examples = read_organ_volumes(masks, records, setting.recipe.organs, setting.store.grid)
    steps = setting.recipe.fit.total_steps
    alike = train_unet(setting, UNET, examples, create, steps)
    assert alike.training_s is not None
    assert reference.training_s is not None
    affordable = max(1, round(steps * reference.training_s / alike.training_s))
    return [alike, train_unet(setting, UNET_TIME, examples, create, affordable)]
