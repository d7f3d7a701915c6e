"""The report and the comparison in a browser: sections, plots that are drawn, and no request."""

from __future__ import annotations

from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

from tests.support import browser
from tests.support.known_run import ORGANS, write_known_run
from voco_models.stages.comparison import compare_runs
from voco_models.stages.evaluation import evaluate

pytestmark = pytest.mark.usefixtures("drawn_plots")


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    good = write_known_run(folder / "good", quality=2.0)
    bad = write_known_run(folder / "bad", quality=1.0, noise_seed=1)
    return {"report": evaluate(good).report, "comparison": compare_runs(good, bad).report}


def open_page(chrome: webdriver.Chrome, page: Path) -> None:
    chrome.get("about:blank")
    chrome.get_log("browser")
    browser.requests(chrome)
    chrome.get(page.as_uri())
    assert browser.requests(chrome) == [page.as_uri()]
    assert chrome.get_log("browser") == []


def section(chrome: webdriver.Chrome, title: str) -> WebElement:
    for found in chrome.find_elements(By.TAG_NAME, "section"):
        if found.find_element(By.TAG_NAME, "h2").text == title:
            return found
    raise AssertionError(f"no section {title}")


@pytest.mark.parametrize(
    ("title", "words"),
    [
        ("Telling grades apart", ["sensitivity", "1 - specificity", *ORGANS]),
        ("Probabilities", ["observed share of injuries", "perfect", *ORGANS]),
        ("Decision curves", ["net benefit, per patient", "act on all", *ORGANS]),
        ("Training of the classifier", ["step", "weighted cross-entropy", "fold 1", "fold 2"]),
    ],
)
def test_the_report_draws_its_plots(
    chrome: webdriver.Chrome, pages: dict[str, Path], title: str, words: list[str]
) -> None:
    open_page(chrome, pages["report"])
    (plot,) = section(chrome, title).find_elements(By.TAG_NAME, "svg")
    texts = [text.text for text in plot.find_elements(By.TAG_NAME, "text")]
    assert set(words) <= set(texts)
    size = plot.size
    assert size["width"] > 500
    assert size["height"] > 200
    colours = {tuple(pixel) for pixel in browser.pixels(plot).reshape(-1, 3).tolist()}
    assert (11, 107, 203) in colours  # the first line's


def test_no_text_of_a_plot_is_cut_off(chrome: webdriver.Chrome, pages: dict[str, Path]) -> None:
    for page in pages.values():
        open_page(chrome, page)
        outside = chrome.execute_script("""
            return [...document.querySelectorAll("svg text")].filter(text => {
                const box = text.getBoundingClientRect();
                const plot = text.ownerSVGElement.getBoundingClientRect();
                return box.left < plot.left - 1 || box.right > plot.right + 1
                    || box.top < plot.top - 1 || box.bottom > plot.bottom + 1;
            }).map(text => text.textContent);
        """)
        assert outside == []


def test_the_report_has_its_tables(chrome: webdriver.Chrome, pages: dict[str, Path]) -> None:
    open_page(chrome, pages["report"])
    assert "The test set was opened once." in section(chrome, "Scores on held-out patients").text
    for title, rows in (("Probabilities", 5), ("Called grades", 9), ("Decision curves", 4)):
        assert len(section(chrome, title).find_elements(By.TAG_NAME, "tr")) == rows, title
    heads = section(chrome, "Called grades").text
    for words in ("Sensitivity", "no injury", "injured elsewhere", "n = "):
        assert words in heads
    # Nothing is wider than the window.
    wide = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert chrome.execute_script(wide) == 0


def test_the_comparison_has_its_plot_and_tables(
    chrome: webdriver.Chrome, pages: dict[str, Path]
) -> None:
    open_page(chrome, pages["comparison"])
    plot = section(chrome, "Differences of the weighted log losses")
    texts = [text.text for text in plot.find_elements(By.TAG_NAME, "text")]
    assert {"rsna_organ_3", *ORGANS} <= set(texts)
    assert "first is better" in section(chrome, "All organs").text
    assert "2.8 x standard error" in section(chrome, "How to read this").text
