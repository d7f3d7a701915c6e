"""The parameters of the flows that preprocess, made from the options of an ingest run."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from inspect import Parameter
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

from voco_data.ingest import list_options
from voco_data.store import PROFILES

F = TypeVar("F", bound=Callable[..., Any])

NOT_IN_THE_FLOW: Final = {"progress"}
"""It depends on whether the process has a terminal."""

PARAMETER_TYPES: Final[dict[Any, Any]] = {
    Sequence[str]: tuple[str, ...],
    str | Path | None: Path | None,
}
"""Types of options, and the narrower types of their parameters, to which Prefect converts."""
CHOICES: Final[dict[str, Any]] = {"specs": tuple[Literal[*PROFILES], ...]}  # type: ignore[valid-type]
"""Types of options that take names that voco knows: choices on Prefect's form."""


def with_ingest_parameters(function: F) -> F:
    """Let `**options` of a flow stand for one keyword parameter for each ingest option.

    An option that the flow has as a parameter of its own, with another default, stays as it is.
    Prefect reads names, types and defaults from the signature, and descriptions from the section
    `Args` of the docstring, which must be the last one.
    """
    signature = inspect.signature(function, eval_str=True)
    own = [p for p in signature.parameters.values() if p.kind != Parameter.VAR_KEYWORD]
    left_out = NOT_IN_THE_FLOW | {parameter.name for parameter in own}
    options = [option for option in list_options() if option.name not in left_out]
    from_options = [
        Parameter(
            option.name,
            Parameter.KEYWORD_ONLY,
            default=option.default,
            annotation=CHOICES.get(option.name, PARAMETER_TYPES.get(option.hint, option.hint)),
        )
        for option in options
    ]
    lines = [inspect.getdoc(function) or "", *(f"    {o.name}: {o.description}" for o in options)]
    function.__signature__ = signature.replace(parameters=[*own, *from_options])  # type: ignore[attr-defined]
    function.__doc__ = "\n".join(lines)
    return function
