"""A finished fine-tuning run, read from its folder alone: recipe, spec, classifiers, decision."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from voco_data.errors import InputError
from voco_data.labels import RSNA_TARGETS, TargetTable
from voco_data.store import ALGORITHM_VERSION, StoreSpec
from voco_data.withdrawal import Withdrawals
from voco_models.evaluation import Decision, FloatArray, metrics, predictions, read_decision
from voco_models.networks import SliceSequenceClassifier, find_misfit
from voco_models.stages import recipe_options
from voco_models.stages.classifiers import build_classifier
from voco_models.stages.evaluation import read_description, read_labels_of_run
from voco_models.stages.finetune_recipes import FinetuneRecipe
from voco_models.training import checkpoint, hash_file, read_specs, read_state

_CLASSIFIER, _AVERAGE = "classifier.", "average."
"""Beginnings of names in the state of `ClassificationObjective`: of the classifier, and of the
average of its weights over steps, which predicts where a run keeps one."""


@dataclass(frozen=True, slots=True)
class FinishedRun:
    """What a finished fine-tuning run left in its folder."""

    folder: Path
    description: dict[str, Any]
    """Content of `RUN/run.json`."""
    recipe: FinetuneRecipe
    spec: StoreSpec
    """How the volumes that it learnt from were made."""
    decision: Decision
    out_of_fold: pd.DataFrame
    """Patient lines of the predictions by models that had not seen the patient."""
    priors: dict[str, FloatArray]
    """Share of each class in the labels of the training patients, (C,), by group."""
    digest: str
    """12 hex digits that change with the run's description, predictions, decision and weights."""

    @property
    def targets(self) -> TargetTable:
        """The groups that it predicts."""
        return self.recipe.targets

    def load_classifier(self, fold: int) -> SliceSequenceClassifier:
        """The classifier of a fold with its trained weights and statistics, on the CPU.

        Raises InputError if the checkpoint is missing, damaged, or of another network.
        """
        path = checkpoint_of(self.folder, fold)
        saved, classifier = read_state(path).objective, build_classifier(self.recipe)
        prefix = _AVERAGE if any(name.startswith(_AVERAGE) for name in saved) else _CLASSIFIER
        state = {
            name.removeprefix(prefix): tensor
            for name, tensor in saved.items()
            if name.startswith(prefix)
        }
        misfit = find_misfit(classifier.state_dict(), state)
        if misfit is not None:
            raise InputError(
                f"{path}: its weights do not fit the network of the recipe: {misfit}; use the "
                f"versions of voco and timm that made the run (timm {self.description.get('timm')})"
            )
        classifier.load_state_dict(state, strict=True)
        return classifier.eval()


def checkpoint_of(run: Path, fold: int) -> Path:
    """Path of the checkpoint of a fold."""
    return run / f"fold-{fold}" / checkpoint.CHECKPOINT


def read_finished_run(run: str | Path) -> FinishedRun:
    """Read and check a run folder.

    Raises InputError if it is no finished fine-tuning run, lacks a file, does not record the spec
    of its store, or if this version makes other voxels from the spec.
    """
    folder = Path(run)
    description = read_description(folder)
    recipe, spec = _read_recipe(folder, description), _read_spec(folder, description)
    for fold in range(recipe.n_folds):
        path = checkpoint_of(folder, fold)
        if not path.is_file():
            raise InputError(f"{path}: the run lacks this file; copy the whole folder of the run")
    table = predictions.read_predictions(folder / predictions.FILE, recipe.targets)
    return FinishedRun(
        folder=folder,
        description=description,
        recipe=recipe,
        spec=spec,
        decision=read_decision(folder, recipe.targets),
        out_of_fold=predictions.patient_lines(table, "oof"),
        priors=_read_priors(folder, predictions.patient_lines(table, "test")),
        digest=_digest(folder, recipe.n_folds),
    )


def _read_recipe(folder: Path, description: dict[str, Any]) -> FinetuneRecipe:
    try:
        return recipe_options.build_recipe(FinetuneRecipe, description["recipe"])
    except (KeyError, InputError) as error:
        raise InputError(
            f"{folder}: its recipe cannot be read ({error}); use the version of voco that made it "
            f"({description.get('voco')}, commit {description.get('commit')})"
        ) from error


def _read_spec(folder: Path, description: dict[str, Any]) -> StoreSpec:
    try:
        (spec, *_) = read_specs(description)
    except InputError as error:
        raise InputError(f"{folder}: {error}; fine-tune again with this version") from error
    if spec.algorithm_version != ALGORITHM_VERSION:
        raise InputError(
            f"{folder}: it learnt from voxels of algorithm version {spec.algorithm_version}, and "
            f"this voco makes version {ALGORITHM_VERSION}; use the voco of the run (commit "
            f"{description.get('commit')}), or preprocess and fine-tune again"
        )
    return spec


def _read_priors(folder: Path, test: pd.DataFrame) -> dict[str, FloatArray]:
    """As in the evaluation: shares in the labels of all patients but those of the test set."""
    training = read_labels_of_run(folder).drop(index=test["patient_id"].tolist(), errors="ignore")
    return {
        group.name: metrics.prior_constant(
            training[group.name].to_numpy(np.int64), len(group.classes)
        )
        for group in RSNA_TARGETS
        if group.name in training.columns
    }


def _digest(folder: Path, n_folds: int) -> str:
    """Digest of the files that predictions depend on.

    It stays if patients are forgotten: the run predicts as before.
    """
    digest, withdrawals = hashlib.sha256(), Withdrawals.read(folder)
    files = [folder / checkpoint.RUN_FILE, folder / predictions.FILE, folder / "decision.json"]
    for path in [*files, *(checkpoint_of(folder, fold) for fold in range(n_folds))]:
        name = path.relative_to(folder).as_posix()
        digest.update(bytes.fromhex(withdrawals.first_digest(name, hash_file(path))))
    return digest.hexdigest()[:12]
