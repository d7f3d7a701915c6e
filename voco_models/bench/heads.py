"""`voco bench heads`: the heads of the classifier on the same features of a frozen backbone.

The backbone sees each series once; see `head_features`. Every head is then trained in each fold,
and grades the patients of the fold that it has not seen. Test patients are left out altogether:
the table is for choosing, and a choice must not depend on them. docs/classifier.md explains it.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd
import torch

from voco_data.errors import InputError
from voco_data.labels import ORGAN_TARGETS
from voco_data.selection import read_split
from voco_data.store import Store
from voco_models.bench.head_features import (
    CachedFeatures,
    Kind,
    cache_features,
    join_stages,
    list_caches,
)
from voco_models.bench.head_scores import (
    Result,
    TrainedHead,
    make_differences,
    make_row,
    score_heads,
)
from voco_models.bench.head_training import (
    FrozenFeatureHead,
    HeadSetting,
    is_fine,
    predict_head,
    train_head,
)
from voco_models.bench.runner import describe_machine
from voco_models.data import Augmentation, step_seed
from voco_models.evaluation import predictions
from voco_models.networks import (
    BILSTM,
    HEADS,
    ORGAN_QUERIES,
    TRANSFORMER,
    Backbone,
    FeatureLayout,
    SlicePooling,
    create_backbone,
)
from voco_models.stages import FinetunePlan, FinetuneRecipe, finetune_recipe, make_plan
from voco_models.training import choose_device, current_commit

log = logging.getLogger(__name__)

CACHE = "head-features"
"""Default folder of the features, in the working directory."""

CAVEATS = (
    "The backbone is frozen, and volumes are not augmented.",
    "A head that is best here need not be best when the backbone is trained too.",
    "Scores are out-of-fold. No test patient was used.",
    "If the recipe calibrates, each fold is calibrated on the other folds.",
    "Intervals are over patients; the SD is over seeds.",
    "pooled: all heads get the same vectors of slices.",
    "stages: finer places, with trained projections; more information than pooled.",
)
"""Printed below the rows."""
SEEN = "Pretraining may have seen the scored patients, without their labels."
"""The same, of a pretrained backbone."""


def bench(
    store: str | Path | Store,
    labels: str | Path,
    *,
    init: str | Path = "scratch",
    recipe: str | Path | FinetuneRecipe = "default",
    changes: Sequence[str] = (),
    split: str | Path | None = None,
    heads: Sequence[str] = (),
    seeds: int = 3,
    stages: bool = True,
    cache: str | Path = CACHE,
    allow_unlabelled: bool = False,
    device: str | torch.device | None = None,
    pseudonymise: Callable[[str], str] | None = None,
) -> Result:
    """Train the heads on cached features; returns rows, differences, and what they were made of.

    Parameters
    ----------
    store, labels, init, recipe, changes, split, pseudonymise, allow_unlabelled : as for `finetune`.
        The recipe gives the backbone, view, window, loss, optimiser, steps and options of heads.
        Its head, augmentation, flips, mixup and moving average are not used.
    heads : names of heads; all if empty.
    seeds : trainings of each head in each fold, from the seed of the recipe on.
    stages : also train `organ_queries` on the maps of all stages, which takes most of the time.
    cache : folder for the features.
    device : CUDA if available, else the CPU, if None.

    Raises
    ------
    InputError : for inputs that do not fit together, an unknown head, and groups without the three
        organs.
    VocoError : for features or losses that are not finite, and files that cannot be written.
    """
    if seeds < 1:
        raise InputError(f"seeds: expected at least 1, got {seeds}")
    chosen, commit = _choose_heads(heads), current_commit()
    given = finetune_recipe(recipe, changes)
    if not set(ORGAN_TARGETS.names) <= set(given.groups):
        raise InputError(
            f"recipe: the score needs {', '.join(ORGAN_TARGETS.names)} among groups, got "
            f"{', '.join(given.groups)}"
        )
    opened = store if isinstance(store, Store) else Store.open(store)
    target = choose_device(device)
    plan = make_plan(
        opened,
        Path(labels),
        _recipe_for(given, chosen),
        init=init,
        split=None if split is None else read_split(Path(split)),
        transductive=True,  # no test patient is used
        allow_unlabelled=allow_unlabelled,
        pseudonymise=pseudonymise,
    )
    pooling: SlicePooling = "mean" if given.pooling == "mean" else "quadrants"
    backbone = _make_backbone(plan)
    settings = _list_settings(chosen, plan, backbone, pooling, stages=stages)
    kinds: list[Kind] = sorted({setting.kind for setting in settings})
    groups = plan.split.groups
    known = plan.series.select([patient for patient in groups if patient not in plan.split.test])
    started = time.perf_counter()
    features = cache_features(plan, backbone, Path(cache), kinds, pooling, known.rows, target)
    feature_seconds = time.perf_counter() - started
    backbone.cpu()
    trained = [
        _train(plan, setting, backbone, features, seeds=seeds, device=target)
        for setting in settings
    ]
    scores, constant = score_heads(plan, trained)
    return {
        "patients": len(trained[0].tables[0]),
        "series": len(known),
        "test_patients_left_out": len(plan.split.test),
        "folds": plan.recipe.n_folds,
        "seeds": seeds,
        "recipe": given.name,
        "backbone": given.backbone,
        "init": plan.initial.name,
        "pooling": pooling,
        "split": plan.split.digest,
        "best_constant": constant,
        "feature_seconds": round(feature_seconds, 1),
        "rows": [make_row(each, scores) for each in trained],
        "differences": make_differences(trained, scores),
        "caches": list_caches(Path(cache)),
        "caveats": [*CAVEATS, *([SEEN] if plan.initial.pretrained else [])],
        "commit": commit,
        "machine": describe_machine() | {"threads": torch.get_num_threads()},
    }


def _choose_heads(names: Sequence[str]) -> list[str]:
    unknown = [name for name in names if name not in HEADS]
    if unknown:
        raise InputError(f"head: expected some of {', '.join(HEADS)}, got {unknown[0]!r}")
    return [name for name in HEADS if name in names or not names]


def _recipe_for(recipe: FinetuneRecipe, heads: Sequence[str]) -> FinetuneRecipe:
    """The recipe with what is not used turned off. InputError if a head cannot have its options.

    Its own head is the one that needs most of the plan: places of organs, or depths.
    """
    plain = dataclasses.replace(
        recipe,
        head=BILSTM,
        pooling="quadrants",
        augmentation=Augmentation(),
        flips=((),),
        mixup_alpha=0.0,
        ema_decay=0.0,
        attention_weight=0.0,
    )
    for head in heads:
        dataclasses.replace(plain, head=head)  # it may refuse
    if ORGAN_QUERIES in heads:
        return dataclasses.replace(
            plain,
            head=ORGAN_QUERIES,
            pooling="stages",
            attention_weight=recipe.attention_weight,
        )
    # Depths are read for all, so that every head is called alike.
    return dataclasses.replace(plain, head=TRANSFORMER if TRANSFORMER in heads else BILSTM)


def _make_backbone(plan: FinetunePlan) -> Backbone:
    """The frozen backbone, on the CPU; random weights are those of the recipe's seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(step_seed(plan.recipe.seed, 0))
        backbone = create_backbone(plan.recipe.backbone)
    if plan.initial.weights is not None:
        backbone.load_state_dict(plan.initial.weights, strict=True)
    return backbone.requires_grad_(False).eval()


def _list_settings(
    heads: Sequence[str],
    plan: FinetunePlan,
    backbone: Backbone,
    pooling: SlicePooling,
    *,
    stages: bool,
) -> list[HeadSetting]:
    """A row for each head on pooled features; with `stages`, one more if it knows fine places."""
    places = (1, 1) if pooling == "mean" else (2, 2)
    pooled = FeatureLayout(backbone.num_features, places)
    settings = [HeadSetting(head, "pooled", pooled) for head in heads]
    for head in filter(is_fine, heads if stages else ()):
        width = plan.recipe.hidden
        joined = join_stages(backbone, plan.recipe.view.size_px, width)
        settings.append(HeadSetting(head, "stages", FeatureLayout(width, joined.places)))
    return settings


def _train(
    plan: FinetunePlan,
    setting: HeadSetting,
    backbone: Backbone,
    features: CachedFeatures,
    *,
    seeds: int,
    device: torch.device,
) -> TrainedHead:
    """All seeds and folds of one row."""
    started, processor = time.perf_counter(), time.process_time()
    tables = []
    network: FrozenFeatureHead | None = None
    for seed in range(plan.recipe.seed, plan.recipe.seed + seeds):
        parts = []
        for fold in range(plan.recipe.n_folds):
            network, _ = train_head(
                plan, setting, backbone, features, fold=fold, seed=seed, device=device
            )
            series = plan.series.select(plan.split.folds[fold])
            parts.append(
                predictions.make_series_table(
                    split="oof",
                    fold=fold,
                    patients=series.patients,
                    series=series.uids,
                    probabilities=predict_head(plan, setting, network, features, series, device),
                    truths={name: c.numpy() for name, c in plan.classes_of(series).items()},
                    targets=plan.targets,
                )
            )
        table = pd.concat(parts, ignore_index=True)
        patients = predictions.to_patients(table, plan.recipe.patient, plan.targets)
        tables.append(predictions.patient_lines(patients, "oof"))
    assert network is not None
    row = TrainedHead(
        setting=setting,
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        tables=tables,
        seconds=time.perf_counter() - started,
        processor_s=time.process_time() - processor,
    )
    log.info("head %s, %s: %.0f s", setting.head, setting.kind, row.seconds)
    return row
