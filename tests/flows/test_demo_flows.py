"""The demos, without a server: their reports, and what a second run reuses."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By

from flows.demo import compare_arms, demo, next_run_folder
from flows.demo_recipes import TINY, TINY_LOCALISER
from flows.localiser_demo import localiser_demo
from tests.support import browser, small_finetune
from tests.support.prefect_artifacts import artifacts
from tests.support.undrawn import drawing
from voco_data.selection.exposure import SeenPatients
from voco_data.selection.series import Selection
from voco_data.selection.split_file import read_split
from voco_data.store.reader import Store
from voco_models.localisation.boxes import OrganBox
from voco_models.stages.finetune_recipes import FINETUNE_RECIPES
from voco_models.stages.pretrain_recipes import PRETRAIN_RECIPES
from voco_models.stages.pretrain_series import select_pretraining_series
from voco_models.stages.projection_recipes import PROJECTION_RECIPES

pytestmark = pytest.mark.xdist_group("prefect")  # one server for all files of flows


def test_the_recipes_of_the_demos_name_real_recipes() -> None:
    assert TINY.pretrain in PRETRAIN_RECIPES
    assert TINY.finetune in FINETUNE_RECIPES
    assert TINY_LOCALISER.project in PROJECTION_RECIPES


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


def shift_boxes(*arguments: Any) -> list[dict[str, OrganBox]]:
    """True boxes of all organs that masks show, whose upper ends are 3 mm too high."""
    return [
        {
            organ: OrganBox(low, (high[0] + 3.0, high[1], high[2]), 0.9)
            for organ, (low, high) in record.organs.items()
        }
        for record in arguments[3]
    ]


def test_the_localiser_demo_ends_in_volumes_of_its_boxes(
    embedded: None, tmp_path: Path, chrome: webdriver.Chrome, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every real stage with less of everything; what two steps of training find is replaced."""
    fit = replace(PROJECTION_RECIPES["tiny"].fit, total_steps=2, warmup_steps=0, log_every=1)
    short = replace(PROJECTION_RECIPES["tiny"], fit=fit, widths=(2, 2, 4, 4, 4))
    less = replace(TINY_LOCALISER, patients=8, masks=2, matrix=64, slices=24, mask_share=0.7)
    monkeypatch.setattr("flows.localiser_demo.TINY_LOCALISER", less)
    stages = "voco_models.stages"
    monkeypatch.setattr(f"{stages}.projection_recipes.PROJECTION_RECIPES", {"tiny": short})
    monkeypatch.setattr(f"{stages}.localisation.find_organ_boxes", shift_boxes)
    summary = localiser_demo(tmp_path)
    assert summary["boxes"]["missed"] == 0
    assert summary["boxes"]["p95_mm"] == pytest.approx(3.0)
    assert summary["boxes"]["kept"] == 1.0
    run = Path(summary["run"])
    assert str(Path(summary["report"]).absolute()) in artifacts()["localiser-demo-report"][1]
    (volumes,) = (tmp_path / "seed-0" / "stores").glob("pretrain-*.zarr")
    methods = Store.open(volumes).catalogue["box_method"].value_counts()
    assert 0 < methods["projection"] == summary["found"] < methods.sum()  # the others: from HU
    _open(chrome, run / "report.html")
    titles = [title.text for title in chrome.find_elements(By.TAG_NAME, "h2")]
    assert titles[:4] == ["The recipe", "Training", "Boxes", "Volumes in these boxes"]
    chrome.find_element(By.LINK_TEXT, "a page of their own").click()
    assert chrome.find_element(By.TAG_NAME, "h1").text == "voco localise"
    captions = [text.text for text in chrome.find_elements(By.TAG_NAME, "figcaption")]
    assert len(captions) == less.pictures
    assert captions[0].endswith("no box")
