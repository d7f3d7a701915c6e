"""The flows without a server: what reaches the stages, what is published, what is retried."""

from __future__ import annotations

import errno
import importlib
import inspect
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from prefect import Flow
from prefect.states import Failed

from flows.demo import demo
from flows.evaluate import evaluate
from flows.experiment import experiment
from flows.explain import explain
from flows.finetune import finetune
from flows.localise import localise
from flows.localiser_demo import localiser_demo
from flows.names import full_name
from flows.predict import predict
from flows.preprocess import preprocess
from flows.pretrain import pretrain
from flows.project import project
from flows.retrain import retrain
from flows.retraining_steps import run_folder
from flows.retries import worth_retrying
from tests.support import (
    small_experiment,
    small_projections,
)
from tests.support.prefect_artifacts import artifacts
from tests.support.project import PROJECT
from voco_data.deidentification import pseudonyms
from voco_data.errors import InputError, StoreBusy
from voco_data.ingest.options import IngestOptions
from voco_data.storage.local import LocalStorage
from voco_data.store.spec import FINETUNE, PRETRAIN
from voco_models.stages.finetune_recipes import FINETUNE_RECIPES
from voco_models.tracking.backbone_choice import BackboneChoice
from voco_models.tracking.retraining import RetrainingPins

pytestmark = pytest.mark.xdist_group("prefect")  # one server for the whole file

FLOWS: dict[str, Flow[..., Any]] = {
    "preprocess": preprocess,
    "pretrain": pretrain,
    "finetune": finetune,
    "evaluate": evaluate,
    "predict": predict,
    "explain": explain,
    "experiment": experiment,
    "project": project,
    "localise": localise,
    "retrain": retrain,
    "demo": demo,
    "localiser-demo": localiser_demo,
}
STAGES = {
    "preprocess": "voco_data.ingest",
    "update_split": "voco_data.selection",
    "pretrain": "voco_models.stages",
    "finetune": "voco_models.stages",
    "evaluate": "voco_models.stages",
    "compare_runs": "voco_models.stages",
    "explain": "voco_models.stages",
    "project": "voco_models.stages",
    "localise": "voco_models.stages",
}


class Calls(dict[str, dict[str, Any]]):
    """Stage → arguments of its last call; the stand-ins take exactly what the stages take."""

    def __init__(self, root: Path) -> None:
        self.order: list[str] = []
        self.errors: dict[str, list[Exception]] = {}
        self._summaries = {
            "preprocess": {
                "series": 3,
                "stored": 2,
                "cached": 0,
                "refused": 1,
                "stores": {
                    "pretrain": str(root / PRETRAIN.name),
                    "finetune": str(root / FINETUNE.name),
                },
                "ledger": str(root / "ledger.parquet"),
                "report": str(root / "report.html"),
            },
            "update_split": {"added": 1},
            "pretrain": {"loss": 0.5},
            "finetune": {"folds": 2},
            "compare_runs": {"report": str(root / "comparison.html"), "patients": 3},
            "evaluate": {"report": str(root / "scores.html"), "scores": {"x": float("nan")}},
            "project": {"loss": 0.3},
            "localise": {"found": 3},
            "explain": {"page": root / "explanation.html", "pointing": {"trained": {"ratio": 2.5}}},
        }

    def stand_in(self, name: str) -> Callable[..., Any]:
        signature = inspect.signature(getattr(importlib.import_module(STAGES[name]), name))

        def stage(*args: Any, **kwargs: Any) -> Any:
            self.order.append(name)
            if self.errors.get(name):
                raise self.errors[name].pop()
            arguments = signature.bind(*args, **kwargs).arguments
            if name == "preprocess":
                changes = arguments.pop("changes", {})
                IngestOptions(**changes)  # raises for what is no option
                arguments |= changes
            self[name] = dict(arguments)
            return SimpleNamespace(to_json=lambda: self._summaries[name])

        return stage


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, embedded: None) -> Calls:
    recorded = Calls(tmp_path)
    for name, module in STAGES.items():
        monkeypatch.setattr(f"{module}.{name}", recorded.stand_in(name))
    return recorded


# --- each flow on its own ----------------------------------------------------------------------


def test_preprocess_calls_the_stage_and_publishes(tmp_path: Path, calls: Calls) -> None:
    summary = preprocess(tmp_path / "archive", tmp_path, layout="ratic", include=("*.dcm",))
    assert calls["preprocess"]["source"] == tmp_path / "archive"
    assert calls["preprocess"]["root"] == tmp_path
    assert calls["preprocess"]["layout"] == "ratic"
    assert calls["preprocess"]["include"] == ("*.dcm",)
    assert summary["stored"] == 2
    found = artifacts()
    kind, rows = found["preprocess-summary"]
    assert kind == "table"
    assert '{"name": "stored", "value": 2}' in rows
    assert '"stores.pretrain"' in rows
    assert f"Report: `{tmp_path / 'report.html'}`" in found["preprocess-report"][1]


def test_parameters_as_texts_are_converted(tmp_path: Path, calls: Calls) -> None:
    """A deployment's parameters are JSON: texts and lists."""
    preprocess(str(tmp_path), str(tmp_path), specs=["pretrain"])  # type: ignore[arg-type]
    assert calls["preprocess"]["root"] == tmp_path
    assert calls["preprocess"]["specs"] == ("pretrain",)


def test_training_flows_call_their_stages(tmp_path: Path, calls: Calls) -> None:
    pretrain(
        [tmp_path / "a"],
        tmp_path / "run",
        recipe="tiny",
        changes=["fit.lr=1e-3"],  # type: ignore[arg-type]  # as a deployment's JSON has it
        max_steps=3,
    )
    assert calls["pretrain"] == {
        "stores": [tmp_path / "a"],
        "init": "scratch",
        "out": tmp_path / "run",
        "recipe": "tiny",
        "changes": ("fit.lr=1e-3",),
        "split": None,
        "transductive": False,
        "max_steps": 3,
        "resume": False,
        "resident": "none",
        "rows": None,
    }
    finetune(tmp_path / "a", tmp_path / "l.csv", tmp_path / "run", init="imagenet", resume=True)
    assert calls["finetune"]["init"] == "imagenet"
    assert calls["finetune"]["resume"] is True
    options: dict[str, Any] = {"split": tmp_path / "split.json", "transductive": True}
    pretrain([tmp_path / "a"], tmp_path / "run", **options)
    finetune(tmp_path / "a", tmp_path / "l.csv", tmp_path / "run", **options)
    assert all(calls[stage].items() >= options.items() for stage in ("pretrain", "finetune"))
    found = artifacts()
    for stage in ("pretrain", "finetune"):
        assert found[f"{stage}-summary"][0] == "table"
        assert f"`{tmp_path / 'run'}`" in found[f"{stage}-report"][1]


def test_labels_join_through_the_key_of_the_stores_root(tmp_path: Path, calls: Calls) -> None:
    hidden = pseudonyms.load_or_make(LocalStorage(tmp_path))
    finetune(tmp_path / "a", tmp_path / "l.csv", tmp_path / "run")
    assert calls["finetune"]["pseudonymise"]("7") == hidden("patient", "7")


def test_undefined_scores_are_null(tmp_path: Path, calls: Calls) -> None:
    summary = evaluate(tmp_path)
    assert summary["scores"] == {"x": None}
    assert calls["evaluate"] == {"run": tmp_path, "out": None, "again": False, "resume": False}


@pytest.mark.parametrize(("tries", "resume"), [("1", False), ("2", True)])
def test_a_crashed_evaluation_that_is_retried_is_no_second_look(
    tmp_path: Path, calls: Calls, monkeypatch: pytest.MonkeyPatch, tries: str, resume: bool
) -> None:
    monkeypatch.setenv("PREFECT__RUNTIME__FLOW_RUN__RUN_COUNT", tries)
    (tmp_path / "metrics.json").touch()
    evaluate(tmp_path, again=True)
    assert (calls["evaluate"]["again"], calls["evaluate"]["resume"]) == (True, resume)


def test_an_evaluation_against_a_run_is_a_comparison(tmp_path: Path, calls: Calls) -> None:
    summary = evaluate(tmp_path / "a", against=tmp_path / "b")
    assert summary["patients"] == 3
    assert calls.order == ["compare_runs"]
    runs = {"run": tmp_path / "a", "against": tmp_path / "b", "out": None}
    assert calls["compare_runs"] == runs


def test_our_errors_come_out_as_they_are(tmp_path: Path, calls: Calls) -> None:
    calls.errors["preprocess"] = [InputError("source: no such folder")]
    with pytest.raises(InputError, match="no such folder"):
        preprocess(tmp_path, tmp_path)
    assert calls.order == ["preprocess"]


def test_predict_calls_its_steps_and_publishes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, embedded: None
) -> None:
    seen: list[Any] = []

    def steps(*args: Any, **kwargs: Any) -> dict[str, Any]:
        seen.extend([*args, kwargs])
        return {"index": tmp_path / "index.html", "patients": 2}

    monkeypatch.setattr("flows.predict.predict_source", steps)
    predict("run", "scans", str(tmp_path), sr=True, keep_ids=True)  # type: ignore[arg-type]
    options = IngestOptions(keep_ids=True)
    assert seen == [
        Path("run"),
        Path("scans"),
        tmp_path,
        options,
        {"structured_reports": True},
    ]
    found = artifacts()
    assert '{"name": "patients", "value": 2}' in found["predict-summary"][1]
    assert f"`{tmp_path / 'index.html'}`" in found["predict-report"][1]


def test_explain_calls_the_stage_and_publishes(tmp_path: Path, calls: Calls) -> None:
    table = tmp_path / "image_level_labels.csv"
    parameters = {"run": tmp_path / "run", "store": "s3://bucket/x.zarr", "out": tmp_path}
    texts = {name: str(value) for name, value in parameters.items()}
    explain(**texts, patients="2", image_labels=str(table))  # type: ignore[arg-type]
    assert calls["explain"] == parameters | {"patients": 2, "image_labels": table}
    found = artifacts()
    assert '{"name": "pointing.trained.ratio", "value": 2.5}' in found["explain-summary"][1]
    assert f"`{tmp_path / 'explanation.html'}`" in found["explain-report"][1]


def test_project_and_localise_call_their_stages(tmp_path: Path, calls: Calls) -> None:
    stores, run, table = ["s3://bucket/x.zarr"], tmp_path / "run", tmp_path / "boxes.csv"
    project(stores, run, changes=("target=mean",), max_steps=3, images=tmp_path)
    assert calls["project"]["stores"] == stores
    assert calls["project"]["out"] == run
    assert calls["project"]["changes"] == ("target=mean",)
    assert calls["project"]["max_steps"] == 3
    assert calls["project"]["images"] == tmp_path
    localise(run, stores[0], table, box="liver", margin_mm=5.0, pictures=2)
    assert calls["localise"] == {
        "run": run, "store": stores[0], "out": table, "box": "liver", "margin_mm": 5.0,
        "score": False, "masks": None, "trained_on": (), "pictures": 2,
    }  # fmt: skip
    found = artifacts()
    assert '{"name": "found", "value": 3}' in found["localise-summary"][1]
    assert f"`{run}`" in found["project-report"][1]


# --- flows of flows ----------------------------------------------------------------------------

DUE = SimpleNamespace(
    scheduled_start_time=datetime(2026, 3, 1, 3, tzinfo=UTC),
    id="0195501c-7a30-7d62-a2c3-0123456789ab",
)
RUN = "retrain-20260301-030000-0123456789ab"


@pytest.fixture
def pinned(calls: Calls, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What reaches the pins of a retraining, whose checks and conclusion are stand-ins."""
    seen: dict[str, Any] = {}

    def pin(run: Path, request: Any, stores: Any, split: Path, pseudonymise: Any) -> Any:
        seen.update(run=run, request=request, stores=stores, split=split)
        backbone = BackboneChoice(f"{run.name}/pretrain", True, None, "no champion")
        return RetrainingPins(run, stores, {}, backbone, patients=3, unlabelled=1)

    def conclude(pins: RetrainingPins, margin: float) -> dict[str, Any]:
        seen["margin"] = margin
        return {"promoted": True, "run": str(pins.folder)}

    monkeypatch.setattr("flows.retraining_steps.flow_run", DUE)
    tracking = "voco_models.tracking"
    monkeypatch.setattr(f"{tracking}.check_request", lambda *given: seen.update(checked=given))
    monkeypatch.setattr(f"{tracking}.pin_retraining", pin)
    monkeypatch.setattr(f"{tracking}.conclude_retraining", conclude)
    return seen


def test_retrain_hands_each_stage_what_the_last_one_made(
    tmp_path: Path, calls: Calls, pinned: dict[str, Any]
) -> None:
    labels, runs = tmp_path / "train.csv", tmp_path / "runs"
    summary = retrain(
        tmp_path / "archive",
        tmp_path,
        labels,
        runs,
        pretrain_recipe="mine.toml",
        finetune_recipe="tiny",
        pretrain_changes=("batch_size=2",),
        finetune_changes=("seed=1",),
        margin=0.1,
        keep_ids=True,
        exclude=("*.tmp",),
    )
    run = runs / RUN
    assert calls.order == ["preprocess", "update_split", "pretrain", "finetune", "evaluate"]
    given = {"wait": 3600.0, "keep_ids": True, "exclude": ("*.tmp",)}
    assert calls["preprocess"].items() >= given.items()
    split = runs / "split.json"
    assert calls["update_split"] == {
        "store": str(tmp_path / FINETUNE.name),
        "out": split,
        "labels": labels,
        "n_folds": FINETUNE_RECIPES["tiny"].n_folds,
        "pseudonymise": None,
    }
    assert (pinned["run"], pinned["split"], pinned["margin"]) == (run, split, 0.1)
    assert pinned["request"].labels == labels
    assert pinned["request"].allow_unlabelled
    pins = {"split": run / "split.json", "rows": run / "rows.json"}
    assert calls["pretrain"].items() >= pins.items()
    assert calls["finetune"].items() >= pins.items()
    assert calls["pretrain"]["stores"] == [tmp_path / PRETRAIN.name]
    assert calls["pretrain"]["out"] == run / "pretrain"
    assert calls["finetune"]["store"] == tmp_path / FINETUNE.name
    assert calls["finetune"]["labels"] == run / "labels.csv"
    assert calls["finetune"]["init"] == str(run / "pretrain")
    assert (calls["pretrain"]["recipe"], calls["finetune"]["recipe"]) == ("mine.toml", "tiny")
    assert calls["pretrain"]["changes"] == ("batch_size=2",)
    assert calls["finetune"]["changes"] == ("seed=1",)
    assert calls["evaluate"] == {
        "run": run / "finetune",
        "out": run / "evaluate",
        "again": False,
        "resume": False,
    }
    assert (calls["pretrain"]["resume"], calls["finetune"]["resume"]) == (False, False)
    assert summary["promoted"]


def test_two_retrainings_of_one_second_have_two_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ids of one second may begin with the same digits."""
    folders = set()
    for run_id in ("0195501c-7a30-7d62-a2c3-0123456789ab", "0195501c-7a30-7d62-a2c3-0123456789ac"):
        due = SimpleNamespace(scheduled_start_time=DUE.scheduled_start_time, id=run_id)
        monkeypatch.setattr("flows.retraining_steps.flow_run", due)
        folders.add(run_folder(tmp_path))
    assert len(folders) == 2


def test_retrain_takes_every_option_of_preprocess() -> None:
    taken, offered = (set(flow.parameters.properties) for flow in (preprocess, retrain))
    assert taken <= offered


def test_retrain_takes_a_split_of_another_place(
    tmp_path: Path, calls: Calls, pinned: dict[str, Any]
) -> None:
    split = tmp_path / "elsewhere" / "split.json"
    retrain(tmp_path / "a", tmp_path, tmp_path / "l.csv", tmp_path / "runs", split=split)
    assert calls["update_split"]["out"] == pinned["split"] == split


def test_a_stopped_retraining_goes_on(
    tmp_path: Path, calls: Calls, pinned: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its pins, and without another look at the archive."""
    run = tmp_path / "runs" / RUN
    for begun in (run / "pretrain" / "checkpoint.pt", run / "evaluate" / "metrics.json"):
        begun.parent.mkdir(parents=True)
        begun.touch()
    backbone = BackboneChoice(f"{RUN}/pretrain", True, None, "no champion")
    stores = {"pretrain": str(tmp_path / "p"), "finetune": str(tmp_path / "f")}
    pins = RetrainingPins(run, stores, {}, backbone, patients=3, unlabelled=1)
    monkeypatch.setattr("voco_models.tracking.read_pins", {run: pins}.get)
    retrain(tmp_path / "archive", tmp_path, tmp_path / "train.csv", tmp_path / "runs")
    assert calls.order == ["pretrain", "finetune", "evaluate"]
    assert (calls["pretrain"]["resume"], calls["finetune"]["resume"]) == (True, False)
    assert calls["evaluate"]["resume"] is True


@pytest.mark.parametrize(("tries", "resume"), [("1", False), ("2", True)])
def test_a_crashed_training_run_goes_on_when_it_is_retried(
    tmp_path: Path, calls: Calls, monkeypatch: pytest.MonkeyPatch, tries: str, resume: bool
) -> None:
    monkeypatch.setenv("PREFECT__RUNTIME__FLOW_RUN__RUN_COUNT", tries)
    (tmp_path / "checkpoint.pt").touch()
    pretrain([tmp_path], tmp_path)
    assert calls["pretrain"]["resume"] is resume


# --- retries -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "worth"),
    [
        (OSError(errno.EIO, "Input/output error"), True),
        (OSError(errno.ESTALE, "Stale file handle"), True),
        (StoreBusy("another run"), True),
        (FileNotFoundError(errno.ENOENT, "no"), False),
        (OSError(errno.ENOSPC, "full"), False),
        (InputError("bad"), False),
        (ZeroDivisionError(), False),
    ],
)
def test_only_trouble_that_passes_is_worth_retrying(error: Exception, worth: bool) -> None:
    state = Failed(data=error)
    assert worth_retrying(None, None, state) is worth  # type: ignore[arg-type]


def test_an_experiment_runs_its_trials_and_reuses_them(embedded: None, tmp_path: Path) -> None:
    text = small_experiment.DECLARATION.replace("[0, 1]", "[0]").replace("[0.6, 1.0]", "[1.0]")
    file = small_experiment.declare(tmp_path, text)
    summary = experiment(file)
    assert (summary["trials"], summary["trained"], summary["reused"]) == (2, 2, 0)
    assert Path(str(summary["report"])).is_file()
    again = experiment(file)
    assert (again["trials"], again["reused"]) == (2, 2)
    assert again["scores"] == summary["scores"]


def test_an_experiment_of_projections_takes_the_same_flow(embedded: None, tmp_path: Path) -> None:
    file = small_projections.declare_projections(tmp_path, small_projections.SMALL)
    summary = experiment(file)
    assert (summary["trials"], summary["trained"], summary["reused"]) == (1, 1, 0)
    assert Path(str(summary["report"])).is_file()
    again = experiment(file)
    assert (again["trials"], again["reused"]) == (1, 1)
    assert again["scores"] == summary["scores"]


# --- deployments -------------------------------------------------------------------------------

PREFECT_YAML = yaml.safe_load((PROJECT / "prefect.yaml").read_text())
DEPLOYMENTS = {deployment["name"]: deployment for deployment in PREFECT_YAML["deployments"]}


def test_every_flow_is_deployed_once() -> None:
    assert sorted(DEPLOYMENTS) == sorted(FLOWS)
    assert len(PREFECT_YAML["deployments"]) == len(FLOWS)


@pytest.mark.parametrize("name", sorted(FLOWS))
def test_flow_file_and_deployment_have_one_name(name: str) -> None:
    flow, deployment = FLOWS[name], DEPLOYMENTS[name]
    module = name.replace("-", "_")
    assert flow.name == name
    assert deployment["entrypoint"] == f"flows.{module}:{module}"
    assert flow.fn.__module__ == f"flows.{module}"
    assert deployment["work_pool"]["job_variables"]["command"] == "python -m flows.job"
    assert set(deployment.get("parameters", {})) <= set(flow.parameters.properties)


def test_the_shorter_words_mean_flow_and_deployment() -> None:
    assert full_name("preprocess") == "preprocess/preprocess"
    assert full_name("preprocess/nightly") == "preprocess/nightly"


@pytest.mark.parametrize("name", sorted(STAGES.keys() & FLOWS.keys() - {"preprocess"}))
def test_flow_offers_what_the_stage_takes(name: str) -> None:
    """Same parameters, same defaults; what only a caller in Python can use is left out.

    Of preprocess, test_ingest_options.py tests it.
    """
    python_only = {"device", "masks", "monitors", "progress", "pseudonymise"}
    stage = inspect.signature(getattr(importlib.import_module(STAGES[name]), name)).parameters
    offered = dict(inspect.signature(FLOWS[name].fn).parameters)
    if name == "evaluate":
        del offered["against"]  # calls another stage, compare_runs
    if name == "localise":
        del offered["archive"], offered["layout"]  # they make the masks
    assert list(offered) == [parameter for parameter in stage if parameter not in python_only]
    for parameter in offered:
        assert offered[parameter].default == stage[parameter].default


@pytest.mark.parametrize("name", sorted(FLOWS))
def test_every_parameter_is_explained_in_the_form(name: str) -> None:
    for parameter, schema in FLOWS[name].parameters.properties.items():
        assert schema.get("description"), parameter


@pytest.mark.parametrize("name", sorted(FLOWS))
def test_a_flow_is_a_table_of_contents(name: str) -> None:
    source = inspect.getsource(FLOWS[name].fn)
    body = source.split('"""')[2]
    assert len(body.strip().splitlines()) <= 25
