"""What turns a model's probabilities into the ones that are scored, and into classes.

Both parts are fitted on out-of-fold predictions and then frozen in `RUN/decision.json`; test
patients have no say in them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from voco_data.errors import InputError
from voco_data.storage import atomic
from voco_models.evaluation.calibration import IDENTITY, Calibration, fit_calibration
from voco_models.evaluation.metrics import Float, Int, Probabilities
from voco_models.evaluation.predictions import organ_probabilities, organ_truths
from voco_models.evaluation.thresholds import Thresholds, fit_thresholds

FILE = "decision.json"


@dataclass(frozen=True, slots=True)
class Decision:
    """A calibration, and thresholds on calibrated probabilities."""

    calibration: Calibration
    thresholds: Thresholds

    def probabilities(self, raw: Probabilities) -> dict[str, Float]:
        """The probabilities that are scored, (N, 3) for each organ."""
        return self.calibration.apply(raw)

    def classes(self, raw: Probabilities) -> dict[str, Int]:
        """The predicted grade, (N,) for each organ."""
        return self.thresholds.decide(self.probabilities(raw))

    def to_json(self) -> str:
        """JSON text, exact to the last bit."""
        parts = {
            "calibration": {o: list(v) for o, v in self.calibration.by_organ.items()},
            "thresholds": {o: list(v) for o, v in self.thresholds.by_organ.items()},
        }
        return json.dumps(parts, indent=2, sort_keys=True) + "\n"


def fit_decision(out_of_fold: pd.DataFrame, *, calibrate: bool) -> Decision:
    """Fit on the patient lines of out-of-fold predictions."""
    raw, truths = organ_probabilities(out_of_fold), organ_truths(out_of_fold)
    calibration = fit_calibration(raw, truths) if calibrate else IDENTITY
    return Decision(calibration, fit_thresholds(calibration.apply(raw), truths))


def write_decision(run: Path, decision: Decision) -> None:
    """Write `RUN/decision.json`."""
    atomic.write_text(run / FILE, decision.to_json())


def read_decision(run: Path) -> Decision:
    """Read `RUN/decision.json`. InputError if it is none."""
    path = run / FILE
    try:
        data = json.loads(path.read_text())
        return Decision(
            Calibration({o: tuple(v) for o, v in data["calibration"].items()}),
            Thresholds({o: tuple(v) for o, v in data["thresholds"].items()}),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: expected the decision of a finished fine-tuning run") from error
