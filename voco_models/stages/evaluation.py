"""The stage of evaluation: scores a fine-tuning run on its held-out patients.

OUT/metrics.json      all numbers of the report, with intervals
OUT/report.html       the report, a self-contained page
RUN/evaluations.json  the looks at the test set, see `voco_models.evaluation.looks`
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from voco_data.errors import InputError, VocoError
from voco_data.labels import ORGAN_TARGETS, RSNA_TARGETS, TargetTable
from voco_data.qc import html
from voco_data.storage import atomic, parquet
from voco_data.withdrawal import Withdrawals
from voco_models.evaluation import (
    CONFIDENCE_LEVEL,
    ORGAN_SCORE,
    RESAMPLES,
    Decision,
    FloatArray,
    IntArray,
    Interval,
    bootstrap_interval,
    check_matplotlib,
    compute_measures,
    looks,
    metrics,
    predictions,
    read_decision,
    report,
)
from voco_models.stages.finetune_recipes import CLASS_WEIGHTS
from voco_models.stages.finetuning import LABELS, STAGE
from voco_models.training import checkpoint

log = logging.getLogger(__name__)

BOOTSTRAP_SEED = 20260101
"""Fixed, so that a run always has the same intervals."""

Probabilities = dict[str, FloatArray]
"""Probabilities (N, C) by group."""
Classes = dict[str, IntArray]
"""Class indices (N,) by group."""


@dataclass(frozen=True, slots=True)
class EvaluateSummary:
    """The main scores of an evaluation, and the files with all results."""

    run: Path
    report: Path
    metrics: Path
    looks: int
    """How often the test set was opened for an evaluation, with this one."""
    test_patients: int
    withdrawn: int
    """Test patients who were forgotten since the run was made; they are in no score."""
    pretrained_on_test_patients: int | None
    """How many of them the pretraining of the backbone has seen; None if unknown."""
    transductive: bool | None
    """Whether it has seen any; None if unknown, and without pretraining."""
    scores: dict[str, Interval]
    """RSNA scores, mAP, macro precision and recall."""
    gain: Interval
    """`rsna_organ_3` of the constant training priors less the model's: positive is better. Of a run
    that predicts no solid organ, that of `rsna_official_6`."""
    organ_gains: dict[str, Interval]
    """By group, the loss of the best constant for the test labels less the model's."""

    @property
    def beats_prior(self) -> bool:
        """Whether the whole interval of the gain is above 0."""
        return self.gain.low > 0

    def to_json(self) -> dict[str, object]:
        """The summary as plain values."""
        return asdict(self) | {
            "run": str(self.run),
            "report": str(self.report),
            "metrics": str(self.metrics),
            "beats_prior": self.beats_prior,
        }


def evaluate(
    run: str | Path, out: str | Path | None = None, *, again: bool = False, resume: bool = False
) -> EvaluateSummary:
    """Score the held-out patients of `run`. Write `metrics.json` and `report.html` to `out`.

    Parameters
    ----------
    out : the run itself if None.
    again : look at the test set another time.
    resume : an evaluation to the same folder is made again, without a new look: for retries.

    Raises InputError if `run` is no finished fine-tuning run, for a second look without `again`,
    and if the decision or the predictions changed since the first one. Raises VocoError if the
    files cannot be written.
    """
    folder = Path(run)
    target = folder if out is None else Path(out)
    description = read_description(folder)
    check_folder(target)
    check_matplotlib()  # before the test set is opened: the page needs it
    with looks.hold_records(folder):
        return _evaluate(folder, target, description, again=again, resume=resume)


def _evaluate(
    folder: Path, target: Path, description: dict[str, Any], *, again: bool, resume: bool
) -> EvaluateSummary:
    """As `evaluate`, while no other process opens the test set."""
    opening = looks.open_for_evaluation(
        folder, target, (report.METRICS, report.REPORT), again=again, resume=resume
    )
    results = compute_results(folder)
    withdrawn = Withdrawals.read(folder).count("test")
    results["test_set"] = {
        "looks": opening.evaluations,
        "comparisons": opening.comparisons,
        "withdrawn": withdrawn,
    }
    exposure = report.exposure_of(description, results["test_patients"])
    results["pretraining"] = exposure.to_json() | {"text": exposure.sentence}
    if exposure.transductive:
        log.warning("%s", exposure.sentence)
    try:
        target.mkdir(parents=True, exist_ok=True)
        # A page of an earlier look must not stand beside new numbers if the process dies between.
        (target / report.REPORT).unlink(missing_ok=True)
        numbers = json.dumps(results, indent=2, allow_nan=False)
        atomic.write_text(target / report.METRICS, numbers + "\n")
        opening.record()
        title = f"Injury classifier: {description['recipe']['name']}"
        lead = report.make_lead(exposure)
        text = html.render_page(
            title, report.make_sections(folder, results, targets_of(description)), lead=lead
        )
        atomic.write_text(target / report.REPORT, text)
        opening.record_results((report.METRICS, report.REPORT))
    except OSError as error:
        raise VocoError(f"{target}: cannot write the evaluation ({error.strerror})") from error
    score = _score_of(targets_of(description))
    return EvaluateSummary(
        run=folder,
        report=target / report.REPORT,
        metrics=target / report.METRICS,
        looks=opening.evaluations,
        test_patients=int(results["test_patients"]),
        withdrawn=withdrawn,
        pretrained_on_test_patients=exposure.seen,
        transductive=exposure.transductive,
        scores={name: Interval(**value) for name, value in results["scores"].items()},
        gain=Interval(**results["gains"]["training_prior"][score]),
        organ_gains={
            organ: Interval(**results["gains"]["test_best_constant"][organ])
            for organ in targets_of(description).names
        },
    )


def _score_of(targets: TargetTable) -> str:
    """The score that the groups of a run count in."""
    return ORGAN_SCORE if set(ORGAN_TARGETS.names) & set(targets.names) else metrics.OFFICIAL_SCORE


def check_folder(out: Path) -> None:
    """Raise InputError if there is something else than a folder at `out`."""
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: expected a folder as --out, got a file")


def read_description(run: Path) -> dict[str, Any]:
    """The description of a fine-tuning run. Raises InputError if it is none, or not finished."""
    description = checkpoint.read_run(run)
    if description.get("stage") != STAGE or not description.get("finished"):
        raise InputError(
            f"{run}: expected a finished fine-tuning run; finish it with "
            "voco finetune ... --resume, or give another folder"
        )
    return description


def targets_of(description: Mapping[str, Any]) -> TargetTable:
    """The groups that the classifiers of a run predict, from the description of the run."""
    groups = description["recipe"].get("groups", ORGAN_TARGETS.names)
    return RSNA_TARGETS.select(name for name in RSNA_TARGETS.names if name in groups)


def targets_with_loss_weights(description: Mapping[str, Any]) -> TargetTable:
    """The same groups, with the class weights that the probabilities of the decision contain.

    Calibrated ones contain those of the score. Others contain those of the loss of training.
    """
    recipe, targets = description["recipe"], targets_of(description)
    if recipe.get("calibrate", False):
        return targets
    return targets.with_grade_weights(recipe.get("class_weights", CLASS_WEIGHTS))


def compute_results(run: Path) -> dict[str, Any]:
    """All numbers of the evaluation, as plain values."""
    description = checkpoint.read_run(run)
    targets = targets_of(description)
    weighted = targets_with_loss_weights(description)
    table = predictions.read_predictions(run / predictions.FILE, targets)
    test = predictions.patient_lines(table, "test")
    if test.empty:
        raise InputError(f"{run}: no test patient is left to score; fine-tune a new run")
    labels = read_labels_of_run(run)
    training = labels.drop(index=test["patient_id"].tolist())
    decision = read_decision(run, targets)
    truths = classes_by_group(labels.loc[test["patient_id"].tolist()])
    arms = make_arms(test, decision, classes_by_group(training), truths, targets)
    predicted = decision.classify(predictions.group_probabilities(test, targets))
    return {
        "test_patients": len(test),
        "training_patients": len(training),
        "resamples": RESAMPLES,
        "level": CONFIDENCE_LEVEL,
        **_score_arms(arms, truths, predicted, targets),
        "arms": {name: metrics.rsna_scores(arm, truths) for name, arm in arms.items()},
        "organs": _score_organs(arms["model"], truths, predicted, targets),
        "measures": compute_measures(arms["model"], predicted, truths, BOOTSTRAP_SEED, weighted),
        "decision": json.loads(decision.to_json()),
        "constant_groups": [g.name for g in RSNA_TARGETS.without(targets) if g.name in truths],
    }


def read_labels_of_run(run: Path) -> pd.DataFrame:
    """The classes of all patients of a run, by `patient_id`. InputError if they cannot be read."""
    path = run / LABELS
    table = parquet.read_frame(path, "the labels of a fine-tuning run")
    if "patient_id" not in table:
        raise InputError(f"{path}: expected the labels of a fine-tuning run, with patient_id")
    return table.set_index("patient_id")


def classes_by_group(labels: pd.DataFrame) -> Classes:
    """Class indices (N,) of N label lines, for every group in the labels."""
    groups = [name for name in RSNA_TARGETS.names if name in labels.columns]
    return {group: labels[group].to_numpy(np.int64) for group in groups}


def make_arms(
    test: pd.DataFrame,
    decision: Decision,
    training: Classes,
    truths: Classes,
    targets: TargetTable,
) -> dict[str, Probabilities]:
    """Probabilities for the test patients: of the model, and of constant predictions.

    The model predicts the training priors for groups without heads. The constant `training_prior`
    does the same, so these groups add nothing to the gain of the model over it.
    """
    raw = predictions.group_probabilities(test, targets)

    def repeat(constant_of: Callable[[str], FloatArray]) -> Probabilities:
        return {group: np.tile(constant_of(group), (len(test), 1)) for group in truths}

    prior = repeat(lambda g: metrics.prior_constant(training[g], len(RSNA_TARGETS[g].classes)))
    return {
        "model": prior | decision.calibrate(raw),
        "model_uncalibrated": prior | raw,
        "training_prior": prior,
        "training_weight_optimal": repeat(
            lambda g: metrics.optimal_constant(training[g], RSNA_TARGETS[g].weights)
        ),
        "test_best_constant": repeat(
            lambda g: metrics.optimal_constant(truths[g], RSNA_TARGETS[g].weights, absent_count=0.0)
        ),
    }


def _score_arms(
    arms: dict[str, Probabilities], truths: Classes, predicted: Classes, targets: TargetTable
) -> dict[str, Any]:
    """Scores of the model, and its paired gains over constants (also by organ), with intervals."""
    terms = {name: metrics.patient_terms(arm, truths) for name, arm in arms.items()}
    constants = [name for name in arms if name not in ("model", "model_uncalibrated")]

    def statistic(counts: FloatArray) -> dict[str, FloatArray]:
        model = terms["model"].scores(counts)
        scores = {name: model[name] for name in metrics.SCORES if name in model}
        precision, recall = metrics.macro_precision_recall(predicted, truths, counts, targets)
        values = {
            **scores,
            "mean_average_precision": metrics.mean_average_precision(
                arms["model"], truths, counts, targets
            ),
            "macro_precision": precision,
            "macro_recall": recall,
        }
        for constant in constants:
            other = terms[constant].scores(counts)
            compared = (*scores, *targets.names)
            values |= {f"{constant}/{name}": other[name] - model[name] for name in compared}
        return values

    count = len(next(iter(predicted.values())))
    intervals = bootstrap_interval(statistic, count, np.random.default_rng(BOOTSTRAP_SEED))
    gains: dict[str, dict[str, Any]] = {constant: {} for constant in constants}
    for key, interval in intervals.items():
        if "/" in key:
            constant, name = key.split("/")
            gains[constant][name] = interval.to_json()
    scores = {key: interval.to_json() for key, interval in intervals.items() if "/" not in key}
    return {"scores": scores, "gains": gains}


def _score_organs(
    model: Probabilities, truths: Classes, predicted: Classes, targets: TargetTable
) -> dict[str, Any]:
    """Loss, average precisions and confusion counts of each group with a head."""
    results: dict[str, Any] = {}
    for group in targets:
        p, truth = model[group.name], truths[group.name]
        counts = metrics.unit_counts(len(truth))
        precisions: dict[str, float] = {}
        absent = []
        for c, name in enumerate(group.classes):
            if (truth == c).any():
                precisions[name] = float(metrics.average_precision(p[:, c], truth == c, counts)[0])
            else:
                absent.append(name)
        results[group.name] = {
            "loss": metrics.weighted_log_loss(p, truth, group.weights),
            "average_precision": precisions,
            "absent": absent,
            "confusion": metrics.confusion(
                truth, predicted[group.name], len(group.classes)
            ).tolist(),
        }
    return results
