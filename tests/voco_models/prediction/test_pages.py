"""The pages of predictions in a real browser: orientation, numbers, links, and no network."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By

from tests.support import browser
from tests.support.small_stores import make_record
from voco_data.labels.targets import ORGAN_TARGETS
from voco_data.store.spec import StoreSpec
from voco_models.evaluation.calibration import Calibration
from voco_models.evaluation.decision import Decision, Thresholds
from voco_models.prediction.abstention import Abstention, GroupAbstention
from voco_models.prediction.pages import (
    N_SLICES,
    SeriesView,
    even_slices,
    most_attended,
    page_name,
    slice_z_mm,
    write_index,
    write_patient,
)
from voco_models.prediction.tables import make_series_lines, make_table

SPEC = StoreSpec("small", (24, 32, 32))
SCRIPT = "<script>document.title='broken'</script>"
NAMES = ORGAN_TARGETS.names
THRESHOLDS = Thresholds(dict.fromkeys(NAMES, (0.5, 0.3, 0.2)))
RULES = Abstention({name: GroupAbstention(0.05, 100, 10, 80, 4) for name in NAMES})


def make_view() -> SeriesView:
    """A box of 240 x 300 x 400 mm. White: left, anterior quarter, in the inferior half only."""
    volume = np.full(SPEC.grid, 60, np.uint8)
    volume[:12, :8, 24:] = 255
    attention = np.zeros(6, np.float32)
    attention[[1, 2]] = 0.75, 0.25
    record = replace(
        make_record(0, volume, SPEC, "7"),
        flags=("odd_spacing",),
        box_low_mm=(1000.0, -150.0, -200.0),
        box_high_mm=(1240.0, 150.0, 200.0),
    )
    return SeriesView(record, volume, SPEC.window, (0.0, 0.5), {"kidney_left": attention})


def make_lines() -> pd.DataFrame:
    series = pd.DataFrame(
        {
            "patient_id": ["7", f"x/{SCRIPT}"],
            "study_uid": ["1", "2"],
            "series_uid": ["series-7", "series-8"],
            "source": ["f7", "f8"],
            "box_confidence": [0.9, 0.2],
            "flags": ["odd_spacing", ""],
        }
    )
    p = np.array([[0.125, 0.25, 0.625], [0.9, 0.05, 0.05]])
    refused = pd.DataFrame(
        [("series", "f9", "missing_slices", SCRIPT, "7", "1", "series-9")],
        columns=["kind", "source", "reason", "detail", "patient_id", "study_uid", "series_uid"],
    )
    return make_table(
        make_series_lines(series, dict.fromkeys(NAMES, p), ORGAN_TARGETS),
        refused,
        aggregate="mean",
        decision=Decision(Calibration.identity(), THRESHOLDS),
        abstention=RULES,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, lines = tmp_path_factory.mktemp("pages"), make_lines()
    write_patient(folder, "7", lines, [make_view()], THRESHOLDS)
    write_patient(folder, f"x/{SCRIPT}", lines, [], THRESHOLDS)
    write_index(folder, lines, THRESHOLDS, RULES, [("Recipe", "tiny")], ["a note"])
    return folder


def open_page(chrome: webdriver.Chrome, path: Path) -> str:
    """The visible text of a page, which asks for nothing but itself."""
    browser.requests(chrome)
    chrome.get(path.as_uri())
    assert browser.requests(chrome) == [path.as_uri()]
    assert chrome.get_log("browser") == []
    assert "Not a medical device. For research only." in chrome.page_source
    return str(chrome.find_element(By.TAG_NAME, "body").text)


def test_a_patient_page_shows_classes_and_probabilities(
    chrome: webdriver.Chrome, folder: Path
) -> None:
    text = open_page(chrome, folder / "patients" / "7.html")
    assert "kidney high healthy 0.125 0.500 0.125" in " ".join(text.split())
    assert "odd_spacing" in text
    assert "missing_slices" in text
    assert SCRIPT in text  # as text
    assert chrome.title == "Patient 7"


def test_slices_have_the_patients_right_on_the_left(chrome: webdriver.Chrome, folder: Path) -> None:
    open_page(chrome, folder / "patients" / "7.html")
    pictures = chrome.find_elements(By.CSS_SELECTOR, "figure.axial svg")
    assert len(pictures) == 1 + N_SLICES
    for picture in pictures:
        seen = browser.pixels(picture).mean(axis=2)
        height, width = seen.shape
        # 300 mm by 400 mm, however the store samples them.
        assert height / width == pytest.approx(300 / 400, abs=0.01)
        white = seen[:, : width - 20] > 250  # without the letter L
        assert white[5 : height // 5, round(0.8 * width) :].mean() > 0.5  # anterior left
        assert not white[height // 2 :].any()
        assert not white[20:, : width // 2].any()  # below the letter R
    coronal = browser.pixels(chrome.find_element(By.CSS_SELECTOR, "figure.coronal svg"))
    assert coronal.shape[0] / coronal.shape[1] == pytest.approx(240 / 400, abs=0.01)
    assert [t.text for t in pictures[0].find_elements(By.TAG_NAME, "text")] == ["R", "L"]


def test_places_of_slices() -> None:
    view = make_view()
    # The classifier sees the inferior half: slices 0 to 11 of 24, here from the superior one.
    assert even_slices(view) == list(range(11, -1, -1))
    # Slice 1 of 6 covers 2 / 24 to 4 / 24 of the volume; its middle begins slice 3.
    assert most_attended(view) == {"kidney_left": 3}
    assert slice_z_mm(view.record, 3, 24) == 1035.0


def test_the_index_links_every_patient(chrome: webdriver.Chrome, folder: Path) -> None:
    text = open_page(chrome, folder / "index.html")
    assert "80 of 90" in text
    assert "4 of 10" in text
    assert "no decision" in text
    links = chrome.find_elements(By.CSS_SELECTOR, ".patients a")
    assert [link.text for link in links] == ["7", f"x/{SCRIPT}"]
    links[1].click()
    assert "the abdomen was not found with confidence" in chrome.page_source
    assert chrome.title.startswith("Patient x/")


def test_a_long_list_of_refused_files_is_cut(tmp_path: Path) -> None:
    rows = [("file", f"{number}.dcm", "unreadable", "", "", "", "") for number in range(503)]
    columns = ["kind", "source", "reason", "detail", "patient_id", "study_uid", "series_uid"]
    lines = make_table(
        pd.DataFrame(),
        pd.DataFrame(rows, columns=columns),
        aggregate="mean",
        decision=Decision(Calibration.identity(), THRESHOLDS),
        abstention=RULES,
    )
    text = write_index(tmp_path, lines, THRESHOLDS, RULES, [], []).read_text()
    assert "<td>499.dcm</td>" in text
    assert "<td>500.dcm</td>" not in text
    assert "3 more are in predictions.parquet." in text


def test_page_names_are_file_names() -> None:
    assert page_name("p0123") == "p0123.html"
    names = {page_name(odd) for odd in ("../up", "a/b", "", ".hidden", "x" * 200, "\udce9")}
    assert len(names) == 6
    assert all("/" not in name and name.startswith("patient-") for name in names)
