"""Abstention: which predicted classes are too near to another class to be relied on.

The predicted class of a group is argmax_c p_c / t_c, of calibrated probabilities p and thresholds t
(`voco_models.evaluation.decision`). The margin is the log of the largest ratio p_c / t_c less the
log of the second largest: 0 where two classes are equally near, and the same in both directions.
A group abstains below the margin that a fixed share of the out-of-fold patients is below. So on
patients like those of the training, each group abstains on about this share.

A probability alone would not do: injuries are rare, so a predicted injury has a lower probability
than a predicted healthy organ, and the rule would abstain on injuries first.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from voco_models.evaluation import Decision, FloatArray, predictions

ABSTAINED_SHARE = 0.1
"""Share of the out-of-fold patients on which a group abstains."""
FALLBACK_CONFIDENCE = 0.5
"""A box with less confidence is a fallback, see docs/abdomen.md: all groups abstain."""
EPSILON = 1e-12


@dataclass(frozen=True, slots=True)
class GroupAbstention:
    """The rule of one group, and what it did on the out-of-fold patients."""

    margin: float
    """The group abstains on a smaller margin."""
    patients: int
    abstained: int
    correct_kept: int
    """Patients on whom it did not abstain, with the right class."""
    correct_abstained: int
    """Patients on whom it abstained, with the right class."""


@dataclass(frozen=True, slots=True)
class Abstention:
    """The rule of every group."""

    by_group: dict[str, GroupAbstention]

    def decide(self, margins: dict[str, FloatArray]) -> dict[str, npt.NDArray[np.bool_]]:
        """Whether to abstain, bool (N,) by group, of margins (N,)."""
        return {name: margins[name] < rule.margin for name, rule in self.by_group.items()}


def margins_of(decision: Decision, raw: dict[str, FloatArray]) -> dict[str, FloatArray]:
    """Margins (N,) by group, of the model's probabilities (N, C)."""
    calibrated = decision.calibrate(raw)
    return {
        name: margin(calibrated[name], np.array(thresholds, np.float64))
        for name, thresholds in decision.thresholds.by_group.items()
    }


def margin(probabilities: FloatArray, thresholds: FloatArray) -> FloatArray:
    """Largest less second largest log(p_c / t_c), (N,), of (N, C) and (C,); C is at least 2."""
    ratios = np.log(np.clip(probabilities, EPSILON, 1)) - np.log(thresholds)
    ordered = np.sort(ratios, axis=1)
    return np.asarray(ordered[:, -1] - ordered[:, -2])


def fit_abstention(decision: Decision, out_of_fold: pd.DataFrame) -> Abstention:
    """The rule, from the patient lines of out-of-fold predictions."""
    targets = decision.thresholds.targets
    raw = predictions.group_probabilities(out_of_fold, targets)
    truths = predictions.group_truths(out_of_fold, targets)
    predicted, margins = decision.classify(raw), margins_of(decision, raw)
    rules = {}
    for name in targets.names:
        # An observed margin: without ties, ceil((N - 1) * share) of N patients are below it.
        limit = float(np.quantile(margins[name], ABSTAINED_SHARE, method="higher"))
        below, right = margins[name] < limit, predicted[name] == truths[name]
        rules[name] = GroupAbstention(
            margin=limit,
            patients=len(right),
            abstained=int(below.sum()),
            correct_kept=int((right & ~below).sum()),
            correct_abstained=int((right & below).sum()),
        )
    return Abstention(rules)
