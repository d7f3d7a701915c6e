"""Checks of tensors that were read from a file, before a network takes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

VARIANCE = "running_var"
"""Ends the names of batch norm's variances, which are not negative."""


def find_misfit(own: Mapping[str, Tensor], given: Mapping[Any, Any]) -> str | None:
    """What is wrong with `given` as values of the tensors `own`, as a phrase; None if nothing is.

    Names, types and shapes must be the same, and values finite.
    """
    for name in own:
        if name not in given:
            return f"{name} is missing"
    for name in given:
        if name not in own:
            return f"{name!r} is not of this network"
    for name, tensor in own.items():
        value = given[name]
        problem = find_bad_value(value) or _find_other_form(tensor, value) or _sign(name, value)
        if problem is not None:
            return f"{name} {problem}"
    return None


def find_bad_value(value: object) -> str | None:
    """Why a value is no dense tensor on the CPU of finite numbers; None if it is one."""
    if not isinstance(value, Tensor):
        return f"is no tensor but {type(value).__name__}"
    if value.layout is not torch.strided or value.device.type != "cpu" or value.is_quantized:
        return "is no plain tensor"
    if not bool(value.isfinite().all()):
        return "has values that are not finite"
    return None


def _sign(name: str, value: Tensor) -> str | None:
    """The root of a negative variance is not a number, and so would be every output."""
    return "has negative values" if name.endswith(VARIANCE) and bool((value < 0).any()) else None


def _find_other_form(own: Tensor, given: Tensor) -> str | None:
    if own.shape != given.shape:
        return f"has the shape {tuple(given.shape)}, expected {tuple(own.shape)}"
    if own.dtype != given.dtype:
        return f"is {_dtype(given)}, expected {_dtype(own)}"
    return None


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
