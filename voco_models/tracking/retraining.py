"""A retraining begins: check all that it needs, then pin what it learns from."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from voco_data.errors import VocoError
from voco_data.labels import ImageLabels, Labels, join_labels, read_image_labels, read_labels
from voco_data.selection import PinnedRows, Split, now, read_split
from voco_data.store import Store
from voco_models import stages
from voco_models.stages import build_classifier
from voco_models.tracking.backbone_choice import choose_backbone
from voco_models.tracking.champions import read_champions
from voco_models.tracking.pins import RetrainingPins, write_pins
from voco_models.tracking.retraining_request import RetrainingRequest
from voco_models.training import checkpoint


def pin_retraining(
    run: Path,
    request: RetrainingRequest,
    stores: Mapping[str, str],
    split: Path,
    pseudonymise: Callable[[str], str] | None = None,
) -> RetrainingPins | None:
    """Check all that training needs, then write the pins of a retraining in the folder `run`.

    Nothing is written, and None returned, if stores, labels and recipes are those of the
    retraining that finished last. Raises InputError if the inputs do not fit together, and
    VocoError if the disk has no space for the checkpoints.
    """
    opened = {stage: Store.open(path) for stage, path in stores.items()}
    frozen = read_split(split)
    patients = sorted(set(opened["finetune"].catalogue["patient_id"].astype(str)))
    joined = join_labels(
        read_labels(request.labels),
        patients,
        allow_unlabelled=request.allow_unlabelled,
        pseudonymise=pseudonymise,
    )
    images = _select_image_labels(request, opened["finetune"])
    rows = PinnedRows.of_stores(list(opened.values()))
    digests = {
        "rows": rows.digest,
        "labels": _hash_labels(joined.labels),
        "image_labels": _hash_text(json.dumps(_plain_image_labels(images))),
        **request.hash_recipes(),
    }
    champions = read_champions(run.parent)
    if champions.last is not None and champions.last.digests == digests:
        return None
    backbone = choose_backbone(
        run.name,
        run.parent,
        champions,
        opened["pretrain"],
        frozen,
        request.read_pretrain_recipe(),
        digests["pretrain_recipe"],
        request.new_data_share,
    )
    pins = RetrainingPins(
        folder=run,
        stores=dict(stores),
        digests=digests,
        backbone=backbone,
        patients=len(joined.labels),
        unlabelled=len(patients) - len(joined.label_ids),
        pinned=now(),
    )
    _check_training(request, opened, frozen, pins, pseudonymise)
    write_pins(pins, rows, frozen, joined.labels, images)
    return pins


def _check_training(
    request: RetrainingRequest,
    stores: Mapping[str, Store],
    split: Split,
    pins: RetrainingPins,
    pseudonymise: Callable[[str], str] | None,
) -> None:
    """Raise InputError or VocoError if a stage would refuse to begin."""
    recipe = request.read_finetune_recipe()
    needed = checkpoint.SPARE_BYTES
    if pins.backbone.pretrains:
        pretraining = request.read_pretrain_recipe()
        stages.check_pretraining([stores["pretrain"]], pretraining, split)
        objective = stages.build_objective(pretraining, stores["pretrain"].spec)
        needed += checkpoint.COPIES * checkpoint.count_checkpoint_bytes(objective)
    stages.make_plan(
        stores["finetune"],
        request.labels,
        recipe,
        init="scratch" if pins.backbone.pretrains else pins.init,
        image_labels=request.image_labels,
        split=split,
        allow_unlabelled=request.allow_unlabelled,
        pseudonymise=pseudonymise,
    )
    fold = checkpoint.count_checkpoint_bytes(build_classifier(recipe))
    needed += (recipe.n_folds + 1) * fold * (2 if recipe.ema_decay else 1)
    runs = pins.folder.parent
    existing = next(path for path in (runs, *runs.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise VocoError(
            f"{runs}: {free / 1e9:.1f} GB free, {needed / 1e9:.1f} GB needed for the checkpoints "
            "of a retraining; free some space"
        )


def _select_image_labels(request: RetrainingRequest, store: Store) -> ImageLabels | None:
    """The labels of images of the series in `store`."""
    if request.image_labels is None:
        return None
    series = set(store.catalogue["series_uid"].astype(str))
    labels = read_image_labels(request.image_labels)
    return {uid: groups for uid, groups in labels.items() if uid in series}


def _plain_image_labels(labels: ImageLabels | None) -> Any:
    if labels is None:
        return None
    return [
        (series, group, sorted(numbers))
        for series, groups in sorted(labels.items())
        for group, numbers in sorted(groups.items())
    ]


def _hash_labels(labels: Labels) -> str:
    """Of the patients' classes; another order or other columns of the table change nothing."""
    classes = labels.groups(labels.patient_ids)
    values = {name: numbers.tolist() for name, numbers in classes.items()}
    return _hash_text(json.dumps([labels.patient_ids, values], sort_keys=True))


def _hash_text(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:12]
