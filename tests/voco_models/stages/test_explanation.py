"""Explanations of small runs: what is written, beside the run's own predictions."""

from __future__ import annotations

import dataclasses
import json
import shutil
import weakref
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from flows.command import main
from tests.support.small_finetune import RECIPE, small_cohort
from tests.support.small_stores import make_store, random_volumes
from tests.voco_models.stages.test_prediction import ORGANS_RECIPE
from voco_data.errors import InputError
from voco_data.store.reader import Store
from voco_data.store.record import Record
from voco_models.explanation import grad_cam
from voco_models.stages import explanation
from voco_models.stages.explained_series import SeriesExplanation, explain_series
from voco_models.stages.explanation import ExplainSummary, explain
from voco_models.stages.finetuning import finetune

WHOLE = ((0.0, 0.0, 0.0), (4.0, 32.0, 32.0))
LOWER_HALF = ((0.0, 0.0, 0.0), (2.0, 32.0, 32.0))
ORGANS = {"liver": WHOLE, "spleen": LOWER_HALF}
TARGETS = ["bowel", "kidney", "liver", "spleen"]


def with_organs(record: Record) -> Record:
    return dataclasses.replace(record, organs=ORGANS)


@dataclasses.dataclass(frozen=True)
class Case:
    store: Store
    run: Path
    summary: ExplainSummary

    @property
    def results(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads(self.summary.results.read_text())
        return content


@pytest.fixture(scope="module")
def labels_of_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Image 2, the second slice from below, of every series shows an injury of the bowel."""
    path = tmp_path_factory.mktemp("labels") / "image_level_labels.csv"
    rows = [f"p,series-{n:03d},2,Bowel" for n in range(14)]
    path.write_text("\n".join(["patient_id,series_id,instance_number,injury_name", *rows]) + "\n")
    return path


def make_case(folder: Path, recipe: Any, labels_of_images: Path | None = None) -> Case:
    store, labels = small_cohort(folder, change=with_organs)
    run = folder / "run"
    finetune(store, labels, run, recipe=recipe, device="cpu")
    found = explain(
        run, store, folder / "out", patients=2, image_labels=labels_of_images, device="cpu"
    )
    return Case(store, run, found)


@pytest.fixture(scope="module")
def organs(tmp_path_factory: pytest.TempPathFactory, labels_of_images: Path) -> Case:
    recipe = dataclasses.replace(ORGANS_RECIPE, groups=tuple(TARGETS))
    return make_case(tmp_path_factory.mktemp("organs"), recipe, labels_of_images)


@pytest.fixture(scope="module")
def lstm(tmp_path_factory: pytest.TempPathFactory) -> Case:
    pytest.importorskip("captum", reason="needs the extra explain")
    return make_case(tmp_path_factory.mktemp("lstm"), RECIPE)


def check_injuries(case: Case) -> None:
    """The probabilities are those of the run, whose mean over folds is in its predictions."""
    table = pd.read_parquet(case.run / "predictions.parquet")
    table = table[(table["level"] == "series") & (table["split"] == "test")].set_index("series_uid")
    assert {each["series_uid"] for each in case.results["series"]} == set(table.index)
    for each in case.results["series"]:
        for group, value in each["injury"].items():
            expected = 1 - table.loc[each["series_uid"], f"p_{group}_healthy"]
            assert value == pytest.approx(expected, abs=2e-6)


def test_organs_are_explained_by_attention(organs: Case) -> None:
    check_injuries(organs)
    results = organs.results
    assert results["map"] == organs.summary.map == "attention"
    assert set(results["pointing"]) == {
        "trained",
        "trained_without_prior",
        "random",
        "random_without_prior",
    }
    for by_name in results["pointing"].values():
        assert set(by_name) == {"all", "liver", "spleen"}  # the others have no boxes
        assert by_name["liver"]["hits"]["value"] == by_name["liver"]["chance"]["value"] == 1.0
        assert by_name["spleen"]["chance"]["value"] == 0.5  # the lower half
        assert by_name["all"]["cases"] == 2 * len(results["series"])
    curves = results["series"][0]["curves"]
    assert sum(curves["attention"]["liver"]) == pytest.approx(1, abs=1e-4)
    assert set(curves["occlusion_neighbours"]) == set(TARGETS)


def test_curves_are_scored_on_known_slices(organs: Case) -> None:
    """The spleen is in the two lower slices of four, and the injured bowel in the second one."""
    results = organs.results
    found = results["slice_auc"]["organs"]
    for curve in ("attention", "occlusion_lowest"):
        pairs = []
        for each in results["series"]:
            z = [abs(value) for value in each["curves"][curve]["spleen"]]
            pairs += [(a, b) for a in z[:2] for b in z[2:]]
        check_area(found[curve]["spleen"]["value"], pairs)
    assert "liver" not in found["attention"]  # it is in every slice
    pairs = []
    for each in results["series"]:
        z = each["curves"]["occlusion_neighbours"]["bowel"]
        pairs += [(z[1], z[i]) for i in (0, 2, 3)]
    bowel = results["slice_auc"]["image_labels"]["occlusion_neighbours"]["bowel"]
    check_area(bowel["value"], pairs)
    assert bowel["series"] == len(results["series"])


def check_area(area: float, pairs: list[tuple[float, float]]) -> None:
    """The share of pairs whose first value is higher. Values that are equal once they are rounded
    may have been unequal."""
    lowest = sum(a > b for a, b in pairs) / len(pairs)
    highest = sum(a >= b for a, b in pairs) / len(pairs)
    assert lowest - 1e-9 <= area <= highest + 1e-9


def test_an_lstm_is_explained_by_grad_cam(lstm: Case) -> None:
    check_injuries(lstm)
    results = lstm.results
    assert results["map"] == "grad_cam"
    assert set(results["pointing"]) == {"trained", "random"}
    assert set(results["series"][0]["maxima"]) == {"kidney", "liver", "spleen"}
    assert "attention" not in results["series"][0]["curves"]
    assert "Grad-CAM" in lstm.summary.page.read_text()


def test_the_page_loads_nothing_and_shows_the_chosen_patients(organs: Case) -> None:
    text = organs.summary.page.read_text()
    assert "Not a medical device. For research only." in text
    assert "<script" not in text
    links = [part.split('"')[0] for part in text.split('href="')[1:]]
    assert all(link.startswith(("#", "data:image/png")) for link in links)
    patients = {each["patient_id"] for each in organs.results["series"]}
    assert len(patients) == 3
    assert sum(f"Patient {patient}, series" in text for patient in patients) == 2


def test_a_second_explanation_has_the_same_bytes(
    organs: Case, labels_of_images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["explain", str(organs.run), str(organs.store.path), "--out", str(tmp_path)]
    options = ["--patients", "2", "--image-labels", str(labels_of_images), "--json"]
    assert main(arguments + options) == 0
    printed = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert printed["pointing"] == organs.summary.pointing
    for file in (organs.summary.results, organs.summary.page):
        assert (tmp_path / file.name).read_bytes() == file.read_bytes()


def test_without_boxes_nothing_is_pointed_at(organs: Case, tmp_path: Path) -> None:
    store = make_store(tmp_path, random_volumes(14, (4, 32, 32)))
    found = explain(organs.run, store, tmp_path / "out", device="cpu")
    assert (found.pointing, found.checks, found.series_with_organs) == ({}, {}, 0)
    assert "No test series has organs with known boxes." in found.page.read_text()


def test_maps_of_a_series_are_not_kept(
    lstm: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Maps of all series may not fit into memory: those of one series at a time do."""
    alive: list[weakref.ref[torch.Tensor]] = []
    most = 0

    def count(models: Any, series: Any) -> SeriesExplanation:
        nonlocal most
        most = max(most, sum(each() is not None for each in alive))
        found = explain_series(models, series)
        alive.append(weakref.ref(found.maps["liver"]))
        return found

    monkeypatch.setattr(explanation, "explain_series", count)
    assert explain(lstm.run, lstm.store, tmp_path / "out", patients=1, device="cpu").series == 3
    assert most <= 1
    assert len(alive) == 3 + 1


def test_only_series_that_the_run_predicts_are_explained(lstm: Case, tmp_path: Path) -> None:
    """A series of a test patient that is not among the predictions was left out by the run."""
    run = Path(shutil.copytree(lstm.run, tmp_path / "run"))
    table = pd.read_parquet(run / "predictions.parquet")
    is_series = (table["level"] == "series") & (table["split"] == "test")
    first = table[is_series]["series_uid"].iloc[0]
    table[~(is_series & (table["series_uid"] == first))].to_parquet(run / "predictions.parquet")
    found = explain(run, lstm.store, tmp_path / "out", patients=1, device="cpu")
    assert found.series == is_series.sum() - 1
    assert first not in {e["series_uid"] for e in json.loads(found.results.read_text())["series"]}


def test_other_stores_and_missing_libraries_are_refused(
    organs: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = make_store(tmp_path / "other", random_volumes(2, (4, 32, 32)), level_hu=60.0)
    with pytest.raises(InputError, match="expected a store of the run's spec"):
        explain(organs.run, other, tmp_path / "out")
    strangers = make_store(
        tmp_path / "strangers",
        random_volumes(2, (4, 32, 32)),
        change=lambda record: dataclasses.replace(record, patient_id=f"x{record.row}"),
    )
    with pytest.raises(InputError, match="no test patient"):
        explain(organs.run, strangers, tmp_path / "out")
    monkeypatch.setattr(grad_cam, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'voco\[explain\]'"):
        grad_cam.check_captum_installed()
    assert not (tmp_path / "out").exists()
