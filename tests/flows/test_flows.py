"""The flows without a server: what reaches the stages, what is published, what is retried."""

from __future__ import annotations

import csv
import errno
import importlib
import inspect
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote, urlparse

import pytest
import yaml
from prefect import Flow
from prefect.client.orchestration import get_client
from prefect.settings import (
    PREFECT_FLOWS_HEARTBEAT_FREQUENCY,
    get_current_settings,
    temporary_settings,
)
from prefect.states import Failed
from prefect.testing.utilities import prefect_test_harness
from selenium import webdriver
from selenium.webdriver.common.by import By

from flows.demo import compare_arms, demo, next_run_folder
from flows.demo_recipes import TINY
from flows.evaluate import evaluate
from flows.experiment import experiment
from flows.explain import explain
from flows.finetune import finetune
from flows.localise import localise
from flows.names import full_name
from flows.predict import predict
from flows.preprocess import preprocess
from flows.pretrain import pretrain
from flows.project import project
from flows.retrain import retrain
from flows.retries import worth_retrying
from tests.support import (
    browser,
    prefect_database as databases,
    small_experiment,
    small_finetune,
    small_projections,
)
from tests.support.project import PROJECT
from tests.support.undrawn import drawing
from voco_data.deidentification import pseudonyms
from voco_data.errors import InputError, StoreBusy
from voco_data.ingest.options import IngestOptions
from voco_data.selection.exposure import SeenPatients
from voco_data.selection.series import Selection
from voco_data.selection.split_file import read_split
from voco_data.storage.local import LocalStorage
from voco_data.store.reader import Store
from voco_data.store.spec import FINETUNE, PRETRAIN
from voco_models.stages.finetune_recipes import FINETUNE_RECIPES
from voco_models.stages.pretrain_recipes import PRETRAIN_RECIPES
from voco_models.stages.pretrain_series import select_pretraining_series

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


@pytest.fixture(scope="module")
def embedded(prefect_database: Path) -> Iterator[None]:
    """A Prefect of our own for this file; never the user's home or database."""
    home = get_current_settings().home
    assert home.is_relative_to(tempfile.gettempdir()), "conftest.py sets PREFECT_HOME"
    without_heartbeats = temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None})  # 1 s a run

    def make_folder() -> str:
        folder = tempfile.mkdtemp()
        databases.copy(prefect_database, Path(folder), "prefect-test.db")
        return folder

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("prefect.testing.utilities.mkdtemp", make_folder)
        with prefect_test_harness(server_startup_timeout=120), without_heartbeats:
            yield


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


def artifacts() -> dict[str, tuple[str, Any]]:
    """Key → type and data of the newest artifact of that key."""
    with get_client(sync_client=True) as client:
        answer = client.request("POST", "/artifacts/latest/filter", json={})
    return {found["key"]: (found["type"], found["data"]) for found in answer.json()}


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

DUE = SimpleNamespace(scheduled_start_time=datetime(2026, 3, 1, 3, tzinfo=UTC))


def test_retrain_hands_each_stage_what_the_last_one_made(
    tmp_path: Path, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flows.retrain.flow_run", DUE)
    labels, runs = tmp_path / "train.csv", tmp_path / "runs"
    retrain(
        tmp_path / "archive",
        tmp_path,
        labels,
        runs,
        pretrain_recipe="mine.toml",
        finetune_recipe="tiny",
        pretrain_changes=("batch_size=2",),
        finetune_changes=("seed=1",),
    )
    run = runs / "retrain-20260301-030000"
    assert calls.order == ["preprocess", "update_split", "pretrain", "finetune", "evaluate"]
    split = runs / "split.json"
    assert calls["update_split"] == {
        "store": str(tmp_path / FINETUNE.name),
        "out": split,
        "labels": labels,
        "n_folds": FINETUNE_RECIPES["tiny"].n_folds,
        "pseudonymise": None,
    }
    assert (calls["pretrain"]["split"], calls["finetune"]["split"]) == (split, split)
    assert calls["pretrain"]["stores"] == [tmp_path / PRETRAIN.name]
    assert calls["pretrain"]["out"] == run / "pretrain"
    assert calls["finetune"]["store"] == tmp_path / FINETUNE.name
    assert calls["finetune"]["labels"] == labels
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


def test_retrain_takes_a_split_of_another_place(
    tmp_path: Path, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flows.retrain.flow_run", DUE)
    split = tmp_path / "elsewhere" / "split.json"
    retrain(tmp_path / "a", tmp_path, tmp_path / "l.csv", tmp_path / "runs", split=split)
    assert calls["update_split"]["out"] == split
    assert (calls["pretrain"]["split"], calls["finetune"]["split"]) == (split, split)


def test_a_stopped_retraining_goes_on(
    tmp_path: Path, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flows.retrain.flow_run", DUE)
    run = tmp_path / "runs" / "retrain-20260301-030000"
    for begun in (run / "pretrain" / "checkpoint.pt", run / "evaluate" / "metrics.json"):
        begun.parent.mkdir(parents=True)
        begun.touch()
    retrain(tmp_path / "archive", tmp_path, tmp_path / "train.csv", tmp_path / "runs")
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


def test_demo_runs_in_new_folders(tmp_path: Path) -> None:
    assert next_run_folder(tmp_path) == tmp_path / "demo-1"
    (tmp_path / "demo-1").mkdir()
    assert next_run_folder(tmp_path) == tmp_path / "demo-2"


@pytest.fixture(scope="module")
def short_recipes(embedded: None) -> Iterator[None]:
    """The demo has every real stage and less of everything."""
    fit = replace(PRETRAIN_RECIPES["tiny"].fit, total_steps=3, warmup_steps=1, log_every=1)
    short_pretrain = replace(PRETRAIN_RECIPES["tiny"], fit=fit)
    short_finetune = replace(
        small_finetune.RECIPE,
        name="tiny",
        epochs=1,
        head="organ_queries",
        pooling="stages",
        attention_weight=0.3,
    )
    cohort = replace(
        TINY,
        patients=12,
        unlabelled=2,
        matrix=64,
        slices=24,
        new_patients=2,
        head_epochs=1,
        label_fractions=(0.8, 1.0),
        finetune_changes=(),
        experiment_changes=("epochs=1",),
    )
    stages = "voco_models.stages"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("flows.demo.TINY", cohort)
        patched.setattr(f"{stages}.pretrain_recipes.PRETRAIN_RECIPES", {"tiny": short_pretrain})
        patched.setattr(f"{stages}.finetune_recipes.FINETUNE_RECIPES", {"tiny": short_finetune})
        yield


@pytest.fixture(scope="module")
def demo_run(
    short_recipes: None, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any]]:
    """The root of a demo, and its summary. Of the trials in it, no plots are drawn."""
    root = tmp_path_factory.mktemp("demo")
    with drawing(), pytest.MonkeyPatch.context() as patched:
        patched.setattr("flows.demo.compare_arms", drawing(on=False)(compare_arms))
        return root, demo(root)


def test_the_demo_ends_in_a_report(demo_run: tuple[Path, dict[str, Any]]) -> None:
    root, first = demo_run
    assert first["stored"] > 0
    assert first["stored"] + first["refused"] == first["series"]
    page = Path(first["report"]).read_text()
    assert "<th>patients</th><td>12</td>" in page
    for heading in ("The recipe", "RATIC: what went in", "Pretraining", "Scores on held-out"):
        assert f"<h2>{heading}" in page
    assert "<script" not in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    _check_held_out(root / "seed-0", Path(first["run"]), first["evaluate"], page)
    assert str(Path(first["report"]).absolute()) in artifacts()["demo-report"][1]


TRAINING = ("pretrain", "finetune", "explain", "predict", "write_card", "compare_heads",
            "compare_arms")  # fmt: skip
"""Stages of the demo that write into the folder of the run alone."""


@pytest.mark.parametrize(
    "whole", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["stores", "whole"]
)
def test_a_second_demo_reuses_the_stores(
    demo_run: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch, whole: bool
) -> None:
    root, first = demo_run
    if not whole:
        for name in TRAINING:
            monkeypatch.setattr(f"flows.demo.{name}", lambda *_, **__: None)
        monkeypatch.setattr("flows.demo.evaluate", lambda run: {})
        monkeypatch.setattr("flows.demo.write_report", lambda run, *_: run / "report.html")
    before = {path: path.read_bytes() for path in Path(first["run"]).rglob("*.json")}
    second = demo(root)
    assert second["stored"] == 0
    assert second["cached"] == first["stored"]
    assert second["run"] != first["run"]
    assert {path: path.read_bytes() for path in before} == before
    assert Path(first["report"]).exists()
    assert str(Path(second["report"]).absolute()) in artifacts()["demo-report"][1]


def test_the_demos_report_shows_all_parts_in_a_browser(
    demo_run: tuple[Path, dict[str, Any]],
    chrome: webdriver.Chrome,
    tmp_path: Path,
) -> None:
    """The folder of the run, moved elsewhere: its links still lead to its pages."""
    root, first = demo_run
    run = tmp_path / "moved"
    shutil.copytree(first["run"], run)
    _open(chrome, run / "report.html")
    links = {
        Path(unquote(urlparse(str(link.get_attribute("href"))).path))
        for link in chrome.find_elements(By.CSS_SELECTOR, "section a")
    }
    assert all(link.is_file() and link.is_relative_to(run) for link in links)
    pages = ("pretrain/report.html", "finetune/report.html", "explanation/explanation.html")
    assert links >= {run / page for page in (*pages, "predictions/index.html", "card/spec.json")}
    assert run / "experiment" / "report.html" in links
    tables = {
        section.find_element(By.TAG_NAME, "h2").text: [
            [cell.text for cell in row.find_elements(By.CSS_SELECTOR, "th, td")]
            for row in section.find_elements(By.TAG_NAME, "tr")
        ]
        for section in chrome.find_elements(By.TAG_NAME, "section")
    }
    _check_table_1(tables["Table 1, beside the paper's"], first["evaluate"]["scores"])
    heads = [row[0] for row in tables["Heads on cached features"][1:]]
    assert heads == ["bilstm", "gru_attention", "gated_attention", "transformer", "organ_queries"]
    arms = tables["Arms and labels"][1:]
    assert [row[1] for row in arms] == ["scratch", "voco"] * 2
    assert int(arms[0][0]) < int(arms[2][0])
    assert [bool(row[3]) for row in arms] == [False, True] * 2
    assert [row[0] for row in tables["The model card"][1:]] == ["CLAIM 2024", "TRIPOD+AI"]
    patients = tables["Predictions of new patients"][1:]
    _check_new_patients(patients, root / "seed-0" / "cohort")
    wide = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert chrome.execute_script(wide) == 0
    chrome.find_element(By.LINK_TEXT, patients[0][0]).click()
    assert chrome.find_element(By.TAG_NAME, "h1").text == f"Patient {patients[0][0]}"
    assert _pictures(chrome) >= 12
    _open(chrome, run / "explanation" / "explanation.html")
    titles = [title.text for title in chrome.find_elements(By.TAG_NAME, "h2")]
    shown = {title.split(",")[0] for title in titles if title.startswith("Patient ")}
    test = read_split(root / "seed-0" / "split.json").test
    assert len(shown) == min(TINY.explained_patients, len(test))
    assert shown <= {f"Patient {patient}" for patient in test}
    assert len(chrome.find_elements(By.TAG_NAME, "svg")) >= 2 * len(shown)
    assert _pictures(chrome) >= 2 * len(shown)


def _open(chrome: webdriver.Chrome, page: Path) -> None:
    """Open a page, which asks for nothing else."""
    chrome.get("about:blank")
    chrome.get_log("browser")
    browser.requests(chrome)
    chrome.get(page.as_uri())
    assert browser.requests(chrome) == [page.as_uri()]
    assert chrome.get_log("browser") == []


def _pictures(chrome: webdriver.Chrome) -> int:
    """How many slices are on the page; the first one is drawn."""
    slices = chrome.find_elements(By.CSS_SELECTOR, "svg:has(image)")
    drawn = browser.pixels(slices[0])
    assert drawn.max() - drawn.min() > 100
    return len(slices)


def _check_table_1(rows: list[list[str]], scores: dict[str, dict[str, float]]) -> None:
    """One row of this run, then the paper's six."""
    names = ("mean_average_precision", "macro_precision", "macro_recall")
    assert rows[1] == [
        "this run, made-up cohort",
        "test_byobnet",
        "2D-VoCo",
        f"{scores['rsna_organ_3']['value']:.4f}",
        *(f"{100 * scores[name]['value']:.2f}" for name in names),
    ]
    assert [row[0] for row in rows[2:]] == ["paper, RATIC"] * 6
    paper = ["0.4133", "0.3818", "0.3777", "0.4009", "0.3925", "0.3817"]
    assert [row[3] for row in rows[2:]] == paper


def _check_new_patients(rows: list[list[str]], cohort: Path) -> None:
    """They are not in the cohort, and the labels beside the predictions are theirs."""

    def read(archive: Path) -> dict[str, dict[str, str]]:
        with (archive / "train.csv").open(newline="") as file:
            return {row["patient_id"]: row for row in csv.DictReader(file)}

    labels = read(cohort / "new" / "ratic")
    assert len(labels) == 2
    assert labels.keys().isdisjoint(read(cohort / "ratic"))
    assert [row[0] for row in rows] == sorted(labels)
    for patient, *cells in rows:
        for number, organ in enumerate(("kidney", "liver", "spleen")):
            predicted, label = cells[2 * number : 2 * number + 2]
            assert labels[patient][f"{organ}_{label}"] == "1"
            assert predicted in ("healthy", "low", "high", "no decision", "refused")


def _check_held_out(folder: Path, run: Path, scores: dict[str, Any], page: str) -> None:
    """The demo pretrains on both archives, and on none of its test patients."""
    split = read_split(folder / "split.json")
    (pretrain_store,) = (folder / "stores").glob("pretrain-*.zarr")
    store = Store.open(pretrain_store)
    seen = SeenPatients.read(run / "pretrain")
    assert seen is not None
    everyone = set(store.catalogue["patient_id"])
    assert set(seen.stores[0].contents) == everyone - set(split.test)
    assert len(split.groups) == 12
    assert (scores["transductive"], scores["pretrained_on_test_patients"]) == (False, 0)
    assert f"pretrained on none of the {len(split.test)} test patients" in " ".join(page.split())
    for layouts in (("ratic",), ("flare",), ("ratic", "flare")):  # the paper's arms, of one root
        arm = select_pretraining_series(
            [store], Selection(layouts=layouts), split, transductive=False
        )
        assert set(arm.series["layout"]) == set(layouts)
        assert set(arm.series["patient_id"]).isdisjoint(split.test)


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
    assert flow.name == name
    assert deployment["entrypoint"] == f"flows.{name}:{name}"
    assert flow.fn.__module__ == f"flows.{name}"
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


def test_the_tiny_recipe_names_real_recipes() -> None:
    assert TINY.pretrain in PRETRAIN_RECIPES
    assert TINY.finetune in FINETUNE_RECIPES
