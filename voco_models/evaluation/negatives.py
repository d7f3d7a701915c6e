"""Specificity by the type of negative: an organ is healthy with and without injuries elsewhere."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from voco_models.evaluation.metrics import Truths
from voco_models.evaluation.probability_measures import wilson_interval


def specificities(
    group: str, predicted: Truths, truths: Truths
) -> dict[str, dict[str, float | int] | None]:
    """Share of healthy patients of `group` who are called healthy, by type of negative.

    `all`: all of them; `no_injury`: no group of the labels is injured; `injured_elsewhere`: another
    group is. With Wilson's interval and the number of patients; None without patients.
    """
    healthy = truths[group] == 0
    injured = np.any([truth > 0 for truth in truths.values()], axis=0)
    called_healthy = predicted[group] == 0
    types = {
        "all": healthy,
        "no_injury": healthy & ~injured,
        "injured_elsewhere": healthy & injured,
    }
    return {name: _share(called_healthy, chosen) for name, chosen in types.items()}


def sensitivity(group: str, predicted: Truths, truths: Truths) -> dict[str, float | int] | None:
    """Share of the injured patients of `group` who are called injured, of any grade."""
    return _share(predicted[group] > 0, truths[group] > 0)


def _share(hit: npt.NDArray[np.bool_], chosen: npt.NDArray[np.bool_]) -> dict[str, Any] | None:
    """How many of the `chosen` patients are hits; None if none is chosen."""
    count = int(chosen.sum())
    if count == 0:
        return None
    return {"patients": count, **wilson_interval(int((hit & chosen).sum()), count).to_json()}
