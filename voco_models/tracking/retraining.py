"""The pins of a retraining: what it learns from, fixed before it trains.

RUN/pins.json           stores, digests, the choice of the backbone; written last
RUN/rows.json           the rows of the stores, see `voco_data.selection.PinnedRows`
RUN/split.json          the split
RUN/labels.csv          the labels of the stores' patients, under the ids of the stores
RUN/image_labels.csv    the labels of images, if there are any

A retraining that is retried uses its pins, whatever came into the archive since.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from voco_data.errors import InputError, VocoError
from voco_data.labels import (
    ImageLabels,
    Labels,
    join_labels,
    read_image_labels,
    read_labels,
    write_image_labels,
    write_labels,
)
from voco_data.selection import PinnedRows, Split, now, read_split, write_split
from voco_data.storage import atomic
from voco_data.store import Store
from voco_models import stages
from voco_models.stages import build_classifier
from voco_models.tracking.backbone_choice import BackboneChoice, choose_backbone
from voco_models.tracking.champion_cohort import PINS, ROWS
from voco_models.tracking.champions import FINETUNE_FOLDER, read_champions
from voco_models.tracking.promotion import check_margin
from voco_models.tracking.retraining_request import RetrainingRequest
from voco_models.training import check_run_folder, checkpoint

SPLIT = "split.json"
LABELS, IMAGE_LABELS = "labels.csv", "image_labels.csv"
FORMAT, VERSION = "voco retraining", 1


@dataclass(frozen=True, slots=True)
class RetrainingPins:
    """What a retraining is pinned to."""

    folder: Path
    """The folder of the retraining."""
    stores: Mapping[str, str]
    """Folder or URL of the store by stage: `pretrain` and `finetune`."""
    digests: Mapping[str, str]
    """Of rows, labels, labels of images and recipes."""
    backbone: BackboneChoice
    patients: int
    """Patients with labels in the store for fine-tuning."""
    unlabelled: int
    """Patients of that store who are left out, without labels."""
    pinned: str = ""
    """When, UTC, ISO 8601; empty in pins of older versions."""

    @property
    def rows(self) -> Path:
        """The file of pinned rows."""
        return self.folder / ROWS

    @property
    def split(self) -> Path:
        """The pinned split."""
        return self.folder / SPLIT

    @property
    def labels(self) -> Path:
        """The pinned labels."""
        return self.folder / LABELS

    @property
    def image_labels(self) -> Path | None:
        """The pinned labels of images."""
        path = self.folder / IMAGE_LABELS
        return path if path.exists() else None

    @property
    def init(self) -> str:
        """Folder of the backbone."""
        return str(self.folder.parent / self.backbone.folder)


def check_request(request: RetrainingRequest, runs: Path, margin: float) -> None:
    """Check what can be checked before preprocessing. Raises InputError, of one line.

    These are the recipes, the label tables, the champion and the folder of the runs.
    """
    check_margin(margin)
    if not 0 <= request.new_data_share <= 1:
        raise InputError(
            f"new data share: expected a number from 0 to 1, got {request.new_data_share}"
        )
    pretraining, finetuning = request.read_pretrain_recipe(), request.read_finetune_recipe()
    if pretraining.backbone != finetuning.backbone:
        raise InputError(
            f"recipes: expected one backbone, got {pretraining.backbone} to pretrain and "
            f"{finetuning.backbone} to fine-tune; change one of them"
        )
    read_labels(request.labels)
    if request.image_labels is not None:
        read_image_labels(request.image_labels)
    champion = read_champions(runs).champion
    if champion is not None and not (runs / champion / FINETUNE_FOLDER).is_dir():
        raise InputError(
            f"{runs / champion}: the champion's classifier is gone; restore its folder, or promote "
            f"another run: voco champion {runs} --promote RUN --reason TEXT"
        )
    check_run_folder(runs, resume=False)


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
    _write(pins, rows, frozen, joined.labels, images)
    return pins


def read_pins(run: Path) -> RetrainingPins | None:
    """The pins of a retraining that began; None if it did not. InputError if they are damaged."""
    path = run / PINS
    try:
        data = json.loads(path.read_text())
        if (data.pop("format"), data.pop("version")) != (FORMAT, VERSION):
            raise ValueError("another format or version")
        backbone = BackboneChoice(**data.pop("backbone"))
        return RetrainingPins(folder=run, backbone=backbone, **data)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path}: expected the pins of a retraining, cannot read them; start another retraining"
        ) from error


def _write(
    pins: RetrainingPins,
    rows: PinnedRows,
    split: Split,
    labels: Labels,
    images: ImageLabels | None,
) -> None:
    values = asdict(pins) | {"format": FORMAT, "version": VERSION}
    del values["folder"]
    try:
        rows.write(pins.rows)
        write_split(pins.split, split)
        write_labels(pins.labels, labels)
        if images is not None:
            write_image_labels(pins.folder / IMAGE_LABELS, images)
        atomic.write_text(pins.folder / PINS, json.dumps(values, indent=1) + "\n")
    except OSError as error:
        raise VocoError(f"{pins.folder}: cannot write the pins ({error.strerror})") from error


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
