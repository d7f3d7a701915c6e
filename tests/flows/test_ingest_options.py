"""The options of a run are written once: the flow, the command and the function agree on them."""

from __future__ import annotations

import inspect
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args, get_type_hints

from flows.command_options import build_parser
from flows.preprocess import preprocess as flow
from flows.verbs import _ingest_options
from voco_data.ingest.estimation import estimate
from voco_data.ingest.options import IngestChanges, IngestOptions, LayoutName, UnevenPolicy
from voco_data.ingest.run import preprocess
from voco_data.store.spec import StoreSpec

NAMES = [field.name for field in fields(IngestOptions)]
NOT_IN_THE_FLOW = {"progress"}
"""It depends on whether the process has a terminal."""


def signature() -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(flow.fn).parameters)


def test_the_flow_has_all_options_with_their_defaults() -> None:
    parameters = signature()
    assert list(parameters)[:2] == ["source", "root"]
    expected = [name for name in NAMES if name not in NOT_IN_THE_FLOW]
    assert list(parameters)[2:] == expected
    defaults = IngestOptions()
    for name in expected:
        assert parameters[name].default == getattr(defaults, name), name


def test_the_flow_describes_every_parameter() -> None:
    assert flow.fn.__doc__ is not None
    for name in signature():
        assert f"\n        {name}: " in flow.fn.__doc__, name


def test_the_flow_has_the_choices_of_the_options() -> None:
    properties = flow.parameters.properties
    assert properties["layout"]["enum"] == list(get_args(LayoutName))
    (uneven,) = [found for found in properties["uneven"]["anyOf"] if "enum" in found]
    assert uneven["enum"] == list(get_args(UnevenPolicy))


def test_the_command_has_all_options_with_their_defaults() -> None:
    args = build_parser().parse_args(["preprocess", "archive", "--root", "stores"])
    assert set(NAMES) - set(vars(args)) == {"progress"}
    assert set(vars(args)) - set(NAMES) == {
        *("command", "debug", "json", "version"),  # of every subcommand
        *("source", "root", "estimate"),
    }
    assert _ingest_options(args) == IngestOptions(progress=True)


def test_keyword_arguments_are_the_fields() -> None:
    assert get_type_hints(IngestChanges) == get_type_hints(IngestOptions)
    for function in (preprocess, estimate):
        parameters: Any = list(inspect.signature(function).parameters)
        assert parameters == ["source", "root", "options", "changes"]


def test_the_policies_are_those_of_a_spec() -> None:
    assert get_type_hints(StoreSpec)["uneven_slices"] == UnevenPolicy


def test_keyword_arguments_change_given_options(tmp_path: Path) -> None:
    from voco_data.ingest.options import with_changes

    options = IngestOptions(workers=3, boxes=tmp_path)
    assert with_changes(options, {"workers": 1}) == IngestOptions(workers=1, boxes=tmp_path)
    assert with_changes(None, {}) == IngestOptions()
