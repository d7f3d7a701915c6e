"""What a retraining is asked for: labels, recipes, and when to pretrain again; and its checks.

This module does without torch, so that a machine that only preprocesses can check a request.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from voco_data.errors import InputError
from voco_data.labels import read_image_labels, read_labels
from voco_models import stages, training
from voco_models.recorded_options import values_to_record
from voco_models.tracking.champions import FINETUNE_FOLDER, read_champions
from voco_models.tracking.promotion import check_margin

if TYPE_CHECKING:
    from voco_models.stages import FinetuneRecipe, PretrainRecipe

NEW_DATA_SHARE = 0.2
"""From this share of new series on, a retraining pretrains a backbone."""


@dataclass(frozen=True, slots=True)
class RetrainingRequest:
    """Labels and recipes of a retraining."""

    labels: Path
    """Label table in RATIC's form, with the archive's own ids."""
    pretrain_recipe: str = "default"
    finetune_recipe: str = "default"
    pretrain_changes: tuple[str, ...] = ()
    finetune_changes: tuple[str, ...] = ()
    image_labels: Path | None = None
    allow_unlabelled: bool = True
    """Leave out patients without labels instead of refusing the store."""
    new_data_share: float = NEW_DATA_SHARE
    """Pretrain if at least this share of the series is new to the champion's backbone; 0 to 1."""

    def to_parameters(self) -> dict[str, Any]:
        """The fields by name, as parameters of a flow."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def read_pretrain_recipe(self) -> PretrainRecipe:
        """The recipe with its changes. Raises InputError if it cannot be read."""
        return stages.pretrain_recipe(self.pretrain_recipe, self.pretrain_changes)

    def read_finetune_recipe(self) -> FinetuneRecipe:
        """The recipe with its changes. Raises InputError if it cannot be read."""
        return stages.finetune_recipe(self.finetune_recipe, self.finetune_changes)

    def hash_recipes(self) -> dict[str, str]:
        """Digest of each recipe with its changes."""
        return {
            "pretrain_recipe": _hash_values(values_to_record(self.read_pretrain_recipe())),
            "finetune_recipe": _hash_values(self.read_finetune_recipe().to_json()),
        }


def check_request(request: RetrainingRequest, runs: Path, margin: float) -> None:
    """Check what can be checked before preprocessing, without torch. InputError of one line.

    These are numbers, the label tables, the champion and the folder of the runs.
    """
    check_margin(margin)
    if not 0 <= request.new_data_share <= 1:
        raise InputError(
            f"new data share: expected a number from 0 to 1, got {request.new_data_share}"
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
    training.check_writable(runs)


def check_recipes(request: RetrainingRequest) -> None:
    """Raise InputError if a recipe cannot be read, or if the two do not fit together."""
    pretraining, finetuning = request.read_pretrain_recipe(), request.read_finetune_recipe()
    if pretraining.backbone != finetuning.backbone:
        raise InputError(
            f"recipes: expected one backbone, got {pretraining.backbone} to pretrain and "
            f"{finetuning.backbone} to fine-tune; change one of them"
        )


def _hash_values(values: dict[str, Any]) -> str:
    text = json.dumps(training.to_plain(values), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
