"""The options of a run are written once: the flow, the command and the function agree on them."""

from __future__ import annotations

import inspect
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

import pytest

from flows.command_options import build_parser
from flows.preprocess import preprocess as flow
from flows.verbs import _ingest_options
from voco_data.ingest.estimation import estimate
from voco_data.ingest.options import (
    IngestOptions,
    LayoutName,
    UnevenPolicy,
    list_options,
    with_changes,
)
from voco_data.ingest.run import preprocess
from voco_data.store.spec import StoreSpec

NAMES = [field.name for field in fields(IngestOptions)]


def signature() -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(flow.fn).parameters)


def test_an_option_has_a_name_a_type_a_default_and_a_description() -> None:
    defaults, hints = IngestOptions(), get_type_hints(IngestOptions)
    assert [option.name for option in list_options()] == NAMES
    for option in list_options():
        assert option.default == getattr(defaults, option.name)
        assert option.hint == hints[option.name]
        assert option.description.endswith(".")


def test_the_flow_has_all_options_with_their_defaults() -> None:
    parameters = signature()
    assert list(parameters) == ["source", "root", *(name for name in NAMES if name != "progress")]
    assert list(flow.parameters.properties) == list(parameters)
    assert flow.parameters.required == ["source", "root"]
    defaults = IngestOptions()
    for name in list(parameters)[2:]:
        assert parameters[name].default == getattr(defaults, name), name


def test_the_flow_takes_the_types_of_the_options() -> None:
    """Where an option takes several types of Python, the flow takes one."""
    narrower = {
        "specs": tuple[Literal["pretrain", "finetune", "localise"], ...],
        "spec_file": Path | None,
        "boxes": Path | None,
        "ids": Path | None,
        "include": tuple[str, ...],
        "exclude": tuple[str, ...],
    }
    parameters, hints = signature(), get_type_hints(IngestOptions)
    for name in list(parameters)[2:]:
        assert parameters[name].annotation == narrower.get(name, hints[name]), name


def test_the_flow_describes_every_parameter() -> None:
    properties = flow.parameters.properties
    assert properties["source"]["description"] == "Folder with DICOM or NIfTI files."
    for option in list_options():
        if option.name != "progress":
            assert properties[option.name]["description"] == option.description


@pytest.mark.parametrize("given", [{"layuot": "ratic"}, {"progress": True}])
def test_the_flow_refuses_what_is_no_parameter(given: dict[str, Any]) -> None:
    with pytest.raises(TypeError):
        inspect.signature(flow.fn).bind("archive", "stores", **given)


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


def test_the_help_of_a_flag_is_the_description_with_the_default(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit):
        build_parser().parse_args(["preprocess", "--help"])
    text = capsys.readouterr().out
    assert "names of built-in store specs, repeatable (pretrain and finetune)\n" in text
    assert "JSON file with store specs of your own, instead of specs\n" in text
    assert "seconds to wait for a store that another run is filling (0)\n" in text
    assert "keep patient and series ids instead of pseudonyms\n" in text
    assert "table of boxes made elsewhere, by series id; CSV or Parquet\n" in text


@pytest.mark.parametrize("function", [preprocess, estimate])
def test_keyword_arguments_are_the_fields(function: Any, tmp_path: Path) -> None:
    assert list(inspect.signature(function).parameters) == ["source", "root", "options", "changes"]
    with pytest.raises(TypeError, match="layuot"):
        function(tmp_path, tmp_path / "stores", layuot="ratic")


def test_the_policies_are_those_of_a_spec() -> None:
    assert get_type_hints(StoreSpec)["uneven_slices"] == UnevenPolicy


def test_keyword_arguments_change_given_options(tmp_path: Path) -> None:
    options = IngestOptions(workers=3, boxes=tmp_path)
    assert with_changes(options, {"workers": 1}) == IngestOptions(workers=1, boxes=tmp_path)
    assert with_changes(None, {}) == IngestOptions()
