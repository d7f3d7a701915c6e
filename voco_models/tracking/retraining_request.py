"""What a retraining is asked for: labels, recipes, and when to pretrain again."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from voco_models import stages, training
from voco_models.recorded_options import values_to_record

if TYPE_CHECKING:  # a server deploys the flow `retrain`, which takes a request, without PyTorch
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


def _hash_values(values: dict[str, Any]) -> str:
    text = json.dumps(training.to_plain(values), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
