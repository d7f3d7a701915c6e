"""What a `checkpoint.pt` holds, checked field by field when it is read.

    objective   state dict of networks and loss
    optimizer   state dict of the optimiser
    step        steps done
    seconds     time in training, over all resumes
    window      scalars of the steps since the last row of the history
    history     the rows of the history so far; checkpoints of older versions have none
    provenance  the experiment, see `provenance.py`

The types are checked here, without a network. `check_against` compares with the network, the
optimiser and the schedule of the run that goes on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from voco_data.errors import InputError
from voco_models.networks import find_bad_value, find_misfit
from voco_models.training import checkpoint
from voco_models.training.fit_config import FitConfig
from voco_models.training.history import HistoryRow

ENTRIES = frozenset(("objective", "optimizer", "step", "seconds", "window", "provenance"))
HISTORY_ENTRY = "history"
MAX_STEPS = 10**9
"""More steps than any schedule has, where the schedule is not known."""
ADVICE = "restore the file from a copy, or start a new run in another --out"
_FREE_OPTIONS = frozenset(
    ("params", "lr", "initial_lr", "foreach", "fused", "capturable", "differentiable")
)
"""Options of a group of parameters that may differ: the schedule sets the learning rate, and a
device has its own kernels."""
_SWITCHES = ("foreach", "fused", "capturable", "differentiable")


@dataclass(frozen=True, slots=True)
class SavedState:
    """A checkpoint whose fields have the right types. Tensors are on the CPU."""

    path: Path
    objective: dict[str, Tensor]
    optimizer: dict[str, Any]
    step: int
    seconds: float
    window: list[HistoryRow]
    provenance: dict[str, Any]
    history: list[HistoryRow] | None
    """None in checkpoints of older versions."""

    def check_against(
        self, objective: nn.Module, optimizer: torch.optim.Optimizer, config: FitConfig
    ) -> None:
        """Raise InputError unless a run with these can go on from the state."""
        if self.step > config.total_steps:
            raise self.refuse("step", f"at most the {config.total_steps} of the recipe", self.step)
        expected = 0 if self.step == config.total_steps else self.step % config.log_every
        if len(self.window) != expected:
            raise self.refuse(
                "window", f"{expected} rows after step {self.step}", f"{len(self.window)} rows"
            )
        misfit = find_misfit(objective.state_dict(), self.objective)
        if misfit is not None:
            raise InputError(
                f"{self.path}: cannot resume: the checkpoint's weights do not fit this network: "
                f"{misfit} (damaged, or of another version of voco or timm); {ADVICE}"
            )
        problem = _find_problem_of_optimizer(self.optimizer, optimizer, self.step)
        if problem is not None:
            raise InputError(
                f"{self.path}: cannot resume: the state of the optimiser does not fit: {problem}; "
                f"{ADVICE}"
            )

    def refuse(self, field: str, expected: str, got: object) -> InputError:
        """The error for a field of the file."""
        return _refuse(self.path, field, expected, got)


def read_state(path: Path) -> SavedState:
    """Read and check a `checkpoint.pt`. Raises InputError, of one line, if it is none."""
    payload = checkpoint.load(path)
    checkpoint.check_entries(path, payload, ENTRIES, optional={HISTORY_ENTRY})
    step, seconds = payload["step"], payload["seconds"]
    if type(step) is not int or not 0 <= step <= MAX_STEPS:
        raise _refuse(path, "step", f"a whole number from 0 to {MAX_STEPS}", step)
    if not _is_number(seconds) or not 0 <= seconds < math.inf:
        raise _refuse(path, "seconds", "a finite number of at least 0", seconds)
    for field in ("objective", "optimizer"):
        if not isinstance(payload[field], dict):
            raise _refuse(path, field, "a state dict", payload[field])
    for name, value in payload["objective"].items():
        problem = "has a name that is no text" if type(name) is not str else find_bad_value(value)
        if problem is not None:
            raise InputError(f"{path}: expected tensors by name, but {name!r} {problem}; {ADVICE}")
    checkpoint.check_provenance(path, payload["provenance"])
    return SavedState(
        path=path,
        objective=payload["objective"],
        optimizer=payload["optimizer"],
        step=step,
        seconds=float(seconds),
        window=_check_window(path, payload["window"]),
        provenance=payload["provenance"],
        history=_read_rows(path, payload.get(HISTORY_ENTRY), step),
    )


def pack_rows(rows: Sequence[HistoryRow]) -> dict[str, Any]:
    """Rows of a history as a checkpoint holds them: columns, and float64 values (R, C)."""
    columns = list(rows[0]) if rows else []
    values = [[row[name] for name in columns] for row in rows]
    table = torch.tensor(values, dtype=torch.float64).reshape(len(rows), len(columns))
    return {"columns": columns, "values": table}


def _read_rows(path: Path, packed: Any, step: int) -> list[HistoryRow] | None:
    """The rows of `pack_rows`; None if the checkpoint has none, being of an older version."""
    if packed is None:
        return None
    expected = "columns with step, and a row of float64 for each of them"
    match packed:
        case {"columns": list(columns), "values": Tensor() as values} if len(packed) == 2:
            pass
        case _:
            raise _refuse(path, HISTORY_ENTRY, expected, packed)
    is_table = values.dtype == torch.float64 and values.layout is torch.strided
    named = all(type(name) is str for name in columns) and len(set(columns)) == len(columns)
    if not is_table or not named or values.ndim != 2 or values.shape[1] != len(columns):
        raise _refuse(path, HISTORY_ENTRY, expected, packed)
    rows = [dict(zip(columns, line, strict=True)) for line in values.tolist()]
    steps = [row.get("step", math.nan) for row in rows]
    # NaN is in no order
    if not all(a < b for a, b in zip([0, *steps], steps, strict=False)) or steps[-1:] > [step]:
        raise _refuse(path, HISTORY_ENTRY, f"rows of rising steps from 1 to {step}", steps)
    return rows


def _check_window(path: Path, window: Any) -> list[HistoryRow]:
    expected = "a list of rows of numbers by name, with a finite loss"
    if not isinstance(window, list):
        raise _refuse(path, "window", expected, window)
    for row in window:
        is_row = isinstance(row, dict) and set(row) == set(window[0]) and "loss" in row
        if not is_row or not all(type(n) is str and _is_number(v) for n, v in row.items()):
            raise _refuse(path, "window", expected, row)
        if not math.isfinite(row["loss"]):
            raise _refuse(path, "window", expected, row)
    return window


def _find_problem_of_optimizer(
    saved: dict[str, Any], optimizer: torch.optim.Optimizer, step: int
) -> str | None:
    """What is wrong with a state dict for `optimizer`; None if nothing is."""
    match saved:
        case {"state": dict(state), "param_groups": list(groups)} if len(saved) == 2:
            pass
        case _:
            return "expected state and param_groups"
    built = optimizer.state_dict()["param_groups"]
    if len(groups) != len(built):
        return f"expected {len(built)} groups of parameters, got {len(groups)}"
    for number, (own, given) in enumerate(zip(built, groups, strict=True)):
        problem = _find_problem_of_group(own, given)
        if problem is not None:
            return f"group {number}: {problem}"
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    names = _state_names(optimizer)
    if step and names and not state:
        return f"expected the averages of {len(parameters)} parameters, got none"
    for key, values in state.items():
        if type(key) is not int or not 0 <= key < len(parameters):
            return f"expected numbers of {len(parameters)} parameters, got {key!r}"
        problem = _find_problem_of_parameter(values, parameters[key], names, step)
        if problem is not None:
            return f"parameter {key}: {problem}"
    return None


def _find_problem_of_group(own: dict[str, Any], given: Any) -> str | None:
    if not isinstance(given, dict):
        return f"expected options by name, got {type(given).__name__}"
    if given.get("params") != own["params"]:
        return "expected the parameters of this network"
    lr = given.get("lr")
    if not isinstance(lr, float) or not 0 <= lr < math.inf:
        return f"lr: expected a finite number of at least 0, got {_short(lr)}"
    for name in _SWITCHES:
        if given.get(name) is not None and type(given[name]) is not bool:
            return f"{name}: expected true or false, got {_short(given[name])}"
    for name in own.keys() & given.keys() - _FREE_OPTIONS:  # versions of torch add options
        if _plain(own[name]) != _plain(given[name]):
            return f"{name}: expected {_short(own[name])}, got {_short(given[name])}"
    return None


def _find_problem_of_parameter(
    values: Any, parameter: Tensor, names: frozenset[str], step: int
) -> str | None:
    if not isinstance(values, dict) or set(values) != names:
        return f"expected {', '.join(sorted(names))}, got {_short(values)}"
    for name, value in values.items():
        if (problem := find_bad_value(value)) is not None:
            return f"{name} {problem}"
        if value.shape != (() if name == "step" else parameter.shape):
            return f"{name} has the shape {tuple(value.shape)}"
        if not value.is_floating_point():
            return f"{name} is {str(value.dtype).removeprefix('torch.')}, expected floats"
        if name == "step" and not 0 <= float(value) <= step:
            return f"step: expected 0 to {step}, got {float(value):g}"
        if name.endswith("_sq") and bool((value < 0).any()):
            return f"{name} has negative values"
    return None


def _state_names(optimizer: torch.optim.Optimizer) -> frozenset[str]:
    """Names of what the optimiser keeps for a parameter."""
    options = optimizer.defaults
    if isinstance(optimizer, torch.optim.SGD):
        return frozenset({"momentum_buffer"} if options["momentum"] else ())
    averages = {"step", "exp_avg", "exp_avg_sq"}
    return frozenset(averages | {"max_exp_avg_sq"} if options["amsgrad"] else averages)


def _is_number(value: object) -> bool:
    return type(value) in (int, float)


def _plain(value: Any) -> Any:
    """A pair that was saved as a list is the same pair; and `True` is not 1."""
    if isinstance(value, list | tuple):
        return tuple(map(_plain, value))
    return type(value) is bool, value


def _short(value: object) -> str:
    return checkpoint.describe_value(value)


def _refuse(path: Path, field: str, expected: str, got: object) -> InputError:
    return InputError(f"{path}: {field}: expected {expected}, got {_short(got)}; {ADVICE}")
