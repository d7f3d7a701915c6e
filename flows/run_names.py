"""Names of runs that say what runs on what: `pretrain default on pretrain-4f2a → pretrain-7`."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import PurePosixPath
from typing import Any, Final

from coolname.data import config
from prefect.runtime import flow_run

INPUTS: Final = ("file", "run", "store", "stores", "source")
"""Parameters that say what a flow works on; the first that a flow has counts."""
OUTPUTS: Final = ("out", "root")
"""Parameters that say where a flow writes."""


def name_run() -> str:
    """The name of the present run: a name that somebody has given, or what runs on what.

    Prefect calls this when a run begins, and replaces the name by the result. A run that nobody has
    named has two words of the lists of coolname.
    """
    name = flow_run.name
    if name and not is_generated(name):
        return str(name)
    return describe_run(str(flow_run.flow_name), flow_run.parameters)


def describe_run(flow: str, parameters: Mapping[str, Any]) -> str:
    """A name made from the flow and its parameters; of paths, only the last part."""
    words = [flow]
    if "recipe" in parameters:
        words.append(_last_part(parameters["recipe"]))
    for preposition, names in (("on", INPUTS), ("→", OUTPUTS)):
        values = [parameters[name] for name in names if parameters.get(name)]
        if values:
            words += [preposition, _last_part(values[0])]
    return " ".join(words)


def is_generated(name: str) -> bool:
    """Whether Prefect may have made the name of a run: two words of its lists, with a dash."""
    words = name.split("-")
    return len(words) == 2 and known_words().issuperset(words)


@cache
def known_words() -> frozenset[str]:
    """All single words of which names are made."""
    lists: Mapping[str, Any] = config
    return frozenset(word for words in lists.values() for word in words.get("words", ()))


def _last_part(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(_last_part(item) for item in value)
    return PurePosixPath(str(value).rstrip("/")).name or str(value)
