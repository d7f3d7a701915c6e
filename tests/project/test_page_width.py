"""No page gets wider than the window through a long id, path or name, in any of the templates."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium import webdriver

from tests.support import browser, qc_cohort
from tests.support.project import PROJECT
from voco_data.qc.html import Section, render_page
from voco_data.qc.ledger import LedgerRow
from voco_data.qc.report import render_report
from voco_data.storage.local import LocalStorage
from voco_models.experiments.page_parts import render_table

WIDTH = 1100
ID, PATH = "1" * 64, "folder" * 50
TEMPLATES = sorted(
    path
    for package in ("voco_data", "voco_models")
    for path in (PROJECT / package).glob("*/templates/*.html")
    if path.name not in ("page.html", "thumb.html")  # the page itself, and a picture
)
_NUMBER_CELL = re.compile(r'(<t[dh][^>]*class="[^"]*number[^>]*>)(.*?)(</t[dh]>)', re.DOTALL)
_NO_WRAP = re.compile(r'(<span class="[^"]*(?:nowrap|numbers|what)[^>]*>)(.*?)(</span>)', re.DOTALL)


def filled(template: str, word: str) -> str:
    """The markup of a template, with `word` for each value that may be a text."""
    text = re.sub(r"{#.*?#}|{%-? *macro.*?{%-? *endmacro *-?%}", "", template, flags=re.DOTALL)
    text = re.sub(r"{%.*?%}|{{ *\w+\(.*?}}", "", text, flags=re.DOTALL)  # calls are of macros
    for part in (_NUMBER_CELL, _NO_WRAP):
        text = part.sub(lambda m: m[1] + re.sub(r"{{.*?}}", "0.512", m[2]) + m[3], text)
    text = re.sub(r"<[^>]*>", lambda tag: re.sub(r"{{.*?}}", "1", tag[0]), text, flags=re.DOTALL)
    return re.sub(r"{{.*?}}", word, text, flags=re.DOTALL)


def excess(chrome: webdriver.Chrome, page: Path) -> int:
    """How many pixels a page is wider than a window of WIDTH pixels."""
    chrome.get(page.as_uri())
    # The window has a frame: give it so many pixels that the page has WIDTH.
    outer = chrome.execute_script("return window.outerWidth - window.innerWidth")
    chrome.set_window_size(WIDTH + outer, 1000)
    assert chrome.execute_script("return window.innerWidth") == WIDTH
    wide = chrome.execute_script("return document.scrollingElement.scrollWidth")
    chrome.set_window_size(1400, 1000)
    return int(wide) - WIDTH


@pytest.fixture(autouse=True)
def drained(chrome: webdriver.Chrome) -> Iterator[None]:
    """Other tests of this browser expect empty logs."""
    yield
    chrome.get("about:blank")
    chrome.get_log("browser")
    browser.requests(chrome)


def test_there_are_templates() -> None:
    assert len(TEMPLATES) > 20


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda path: f"{path.parts[-3]}-{path.stem}")
def test_long_words_break(chrome: webdriver.Chrome, tmp_path: Path, template: Path) -> None:
    page = tmp_path / "page.html"
    for word in (ID, PATH):
        html = filled(template.read_text(), word)
        page.write_text(render_page(f"Page {word}", [Section(word, html)], lead=word))
        assert excess(chrome, page) <= 0


def test_tables_of_an_experiment_do_not_widen_its_page(
    chrome: webdriver.Chrome, tmp_path: Path
) -> None:
    page = tmp_path / "page.html"
    rows = [{f"column {number}": PATH for number in range(6)}]
    page.write_text(render_page("Page", [Section("Arms", render_table(rows))]))
    assert excess(chrome, page) <= 0


def test_numbers_are_not_broken(chrome: webdriver.Chrome, tmp_path: Path) -> None:
    """In a table that fills the page, beside a path that is."""
    page = tmp_path / "page.html"
    cells = "".join(f"<td>0.5{number:04d}</td>" for number in range(8))
    html = f"<table><tr><td>{PATH}</td>{cells}</tr></table>"
    page.write_text(render_page("Page", [Section("Numbers", html)]))
    assert excess(chrome, page) <= 0
    heights = chrome.execute_script("""
        return [...document.querySelectorAll("td")].map(cell => {
            const range = document.createRange();
            range.selectNodeContents(cell);
            return range.getClientRects().length;
        });
    """)
    assert heights[0] > 1
    assert set(heights[1:]) == {1}


def test_the_qc_report_keeps_its_width(chrome: webdriver.Chrome, tmp_path: Path) -> None:
    rows = [qc_cohort.kept(number) for number in range(20)]
    rows += [
        LedgerRow("series", PATH, ID, PATH, "refused", "too_few_slices", PATH, 4),
        LedgerRow("file", PATH, "", "", "skipped", "not_medical", PATH),
    ]
    page = tmp_path / "report.html"
    ledger = qc_cohort.write(tmp_path, rows)
    page.write_text(render_report(f"voco preprocess: {PATH}", ledger, LocalStorage(tmp_path)))
    assert excess(chrome, page) <= 0
    chrome.execute_script("document.querySelector('tbody tr:not([hidden])').click()")
    wide = chrome.execute_script("""
        const dialog = document.querySelector("dialog[open]");
        return [dialog.scrollWidth - dialog.clientWidth,
                document.scrollingElement.scrollWidth - window.innerWidth];
    """)
    assert max(wide) <= 0
