"""The QC report in a browser, used with a mouse and a keyboard."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from tests.support import browser, qc_cohort
from tests.support.qc_report import FALLBACK, NAMED, ODD_SPACING, SCRIPT, Page, rows, uid
from voco_data.qc import preview
from voco_data.qc.report import render_report
from voco_data.storage.local import LocalStorage
from voco_data.volumes.geometry import Box
from voco_data.volumes.hu_histogram import HuHistogram


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("root")
    path = root / "report.html"
    path.write_text(
        render_report("voco preprocess: dicom", qc_cohort.write(root, rows()), LocalStorage(root))
    )
    return path


@pytest.fixture
def page(chrome: webdriver.Chrome, report: Path) -> Page:
    return Page(chrome, report)


def test_outliers_come_first_and_say_why(page: Page) -> None:
    assert page.order_of("score") == "descending"
    names, why = page.names(), page.column("why")
    assert names[:3] == ["1.2.3.100", "1.2.3.101", "1.2.3.103"]  # refused
    assert why[0] == "gantry_tilt slices shift 0.793 mm in their plane at every step"
    assert names[3:5] == [uid(ODD_SPACING), uid(FALLBACK)]
    assert why[3] == "slice spacing 8.00 mm (median 2.50)"
    assert why[4] == "box is a fallback (confidence 0.30)"
    assert set(why[5:-2]) == {""}
    assert names[-2:] == ["9.9", "notes.txt"]  # no CT: last


def test_filter_by_status_and_reason(page: Page) -> None:
    assert page.text(".chip[data-value=gantry_tilt]") == "gantry_tilt 2"
    page.chip("gantry_tilt")
    assert page.names() == ["1.2.3.100", "1.2.3.103"]
    assert page.text("#shown") == "2 of 41 rows"
    page.chip("missing_slices")  # chips of one column are joined by or
    assert len(page.names()) == 3
    page.chip("skipped")  # columns are joined by and
    assert page.names() == []
    assert page.text("#nothing") == "Nothing matches the filters."
    page.click("#clear")
    assert len(page.names()) == 41
    page.chip("odd")
    assert page.names() == [uid(ODD_SPACING), uid(FALLBACK)]
    page.chip("odd")
    page.chip("file")
    assert page.names() == ["notes.txt"]


def test_filter_by_text(page: Page) -> None:
    page.find("fallback WHOLE")
    page.wait(lambda: page.names() == [])  # every word must occur; the method is in no column
    page.find("Series_00012")
    page.wait(lambda: page.names() == [uid(12)])
    page.find("7919 patient_0001")
    page.wait(lambda: page.names() == [uid(1)])


@pytest.mark.parametrize("key", ["box_confidence", "spacing_x_mm", "scan_mm", "n_slices"])
def test_sort_both_ways_with_missing_values_last(page: Page, key: str) -> None:
    def numbers() -> list[float]:
        texts = page.column(key)
        known = [text for text in texts if text != "–"]
        assert texts == known + ["–"] * (len(texts) - len(known))
        return [float(text) for text in known]

    page.click(f"thead [data-key={key}]")
    assert page.order_of(key) == "ascending"
    assert page.order_of("score") == "none"
    upward = numbers()
    assert upward == sorted(upward)
    assert len(set(upward)) > 2
    page.click(f"thead [data-key={key}]")
    assert page.order_of(key) == "descending"
    assert numbers() == upward[::-1]
    page.click("thead [data-key=score]")
    assert page.names()[0] == "1.2.3.100"


def test_sort_keeps_the_filter_and_names_sort_as_text(page: Page) -> None:
    page.chip("refused")
    page.click("thead [data-key=series_uid]")
    assert page.names() == ["1.2.3.100", "1.2.3.101", "1.2.3.103"]
    page.click("thead [data-key=series_uid]")
    assert page.names() == ["1.2.3.103", "1.2.3.101", "1.2.3.100"]


def test_open_a_series_with_a_click(page: Page) -> None:
    page.chip("odd")
    page.click("#series tbody tr:not([hidden]) td.why")  # anywhere in the row
    assert page.is_open()
    assert page.text("#detail-name") == uid(ODD_SPACING)
    assert page.text("#place") == "1 of 2"
    assert page.text("#detail-why") == "slice spacing 8.00 mm (median 2.50)"
    planes = page.chrome.find_elements(By.CSS_SELECTOR, "#detail-planes figure")
    assert [plane.text for plane in planes] == list(preview.PLANES)
    assert all(plane.size["width"] > 200 for plane in planes)
    assert ink(page, "#detail-hu canvas") > 0.02
    ledger = page.text("#detail-ledger")
    row = rows()[ODD_SPACING]
    for value in (row.source, row.transfer_syntax, row.input_digest, "8", "box_z_low_mm"):
        assert str(value) in ledger
    page.press(Keys.ESCAPE)
    assert not page.is_open()


def test_the_keyboard_opens_walks_and_closes(page: Page) -> None:
    page.chip("odd")
    first = page.chrome.find_element(By.CSS_SELECTOR, "tr:not([hidden]) .open")
    first.send_keys(Keys.ENTER)
    assert page.text("#detail-name") == uid(ODD_SPACING)
    assert not page.chrome.find_element(By.ID, "previous").is_enabled()
    page.press(Keys.ARROW_RIGHT)
    assert page.text("#detail-name") == uid(FALLBACK)
    assert page.text("#place") == "2 of 2"
    page.press(Keys.ARROW_RIGHT)  # the end: stays
    assert page.text("#detail-name") == uid(FALLBACK)
    page.press("b")
    assert not page.chrome.find_element(By.CSS_SELECTOR, "#detail-planes rect").is_displayed()
    page.press("b")
    page.press(Keys.ARROW_LEFT)
    assert page.text("#detail-name") == uid(ODD_SPACING)
    page.press(Keys.ARROW_RIGHT)
    page.press(Keys.ESCAPE)
    # The focus goes to the series that was open last.
    page.wait(lambda: page.script("return document.activeElement.textContent") == uid(FALLBACK))


def test_a_refused_series_opens_without_pictures(page: Page) -> None:
    page.chip("refused")
    page.click("tr:not([hidden]) .open")
    assert page.text("#detail-name") == "1.2.3.100"
    assert page.text("#detail-state").startswith("refused gantry_tilt: slices shift")
    assert not page.chrome.find_element(By.ID, "detail-planes").is_displayed()
    assert page.chrome.find_element(By.ID, "detail-unpictured").is_displayed()
    page.click("#close")
    assert not page.is_open()


def test_the_plots_are_drawn_and_a_dot_opens_its_series(page: Page) -> None:
    for canvas in ("#plot-spacing", "#plot-range", "#plot-hu"):
        assert ink(page, canvas) > 0.005
    page.find(uid(ODD_SPACING))
    page.wait(lambda: page.names() == [uid(ODD_SPACING)])
    at = page.script(
        "const {x, y} = MARKS['plot-spacing'][0], c = document.getElementById('plot-spacing');"
        "return [Math.round(x - c.clientWidth / 2), Math.round(y - c.clientHeight / 2)]"
    )
    assert isinstance(at, list)
    canvas = page.chrome.find_element(By.ID, "plot-spacing")
    ActionChains(page.chrome).move_to_element_with_offset(canvas, *at).click().perform()
    assert page.text("#detail-name") == uid(ODD_SPACING)


def test_text_of_files_stays_text(page: Page, report: Path) -> None:
    assert page.chrome.title == "voco preprocess: dicom"
    assert SCRIPT not in report.read_text()
    page.find(SCRIPT)
    page.wait(lambda: len(page.names()) == 2)  # one in a source, one in a detail
    page.find(uid(NAMED))
    page.wait(lambda: page.names() == [uid(NAMED)])
    page.click("tr:not([hidden]) .open")
    assert f"{SCRIPT}/&amp;" in page.text("#detail-ledger")
    assert page.chrome.title == "voco preprocess: dicom"


def test_nothing_is_loaded_and_nothing_complains(page: Page, report: Path) -> None:
    page.chip("odd")
    page.click("tr:not([hidden]) .open")
    assert browser.requests(page.chrome) == [report.as_uri()]
    assert page.chrome.get_log("browser") == []
    text = report.read_text()
    assert "http" not in text.replace("http-equiv", "")
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]+)"', text)
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert "unsafe" not in policy
    assert " style=" not in text  # the policy would drop it


def test_a_phone_shows_no_sideways_scroll(page: Page) -> None:
    metrics = {"width": 360, "height": 740, "deviceScaleFactor": 1, "mobile": True}
    page.chrome.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        page.wait(lambda: page.script("return innerWidth") == 360)
        assert page.script("return document.documentElement.scrollWidth") == 360
        assert page.chrome.find_element(By.ID, "sort").is_displayed()
        page.script(
            "const s = document.getElementById('sort'); s.value = 'scan_mm ascending';"
            "s.dispatchEvent(new Event('change'))"
        )
        assert page.order_of("scan_mm") == "ascending"
        page.script("document.querySelector('#series .thumb').click()")
        assert page.script("return document.getElementById('detail').scrollWidth <= 360")
    finally:
        page.chrome.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_dark_and_light(page: Page) -> None:
    def paper() -> object:
        return page.script("return getComputedStyle(document.body).backgroundColor")

    seen = []
    for value in ("dark", "light"):
        wish = {"features": [{"name": "prefers-color-scheme", "value": value}]}
        page.chrome.execute_cdp_cmd("Emulation.setEmulatedMedia", wish)
        seen.append(paper())
    assert seen == ["rgb(18, 22, 28)", "rgb(255, 255, 255)"]


def ink(page: Page, canvas: str) -> float:
    """Share of a canvas that was drawn on."""
    share = page.script(
        "const c = document.querySelector(arguments[0]);"
        "const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;"
        "let n = 0; for (let k = 3; k < d.length; k += 4) n += d[k] > 0; return n * 4 / d.length",
        canvas,
    )
    assert isinstance(share, int | float)
    return float(share)


def test_the_drawn_box_is_where_the_box_is(chrome: webdriver.Chrome, tmp_path: Path) -> None:
    hu = np.full((40, 60, 80), -1000, np.int16)  # 200 by 120 by 160 mm
    box = Box((10, 15, 20), (30, 45, 70), "profile", 0.9)
    row = qc_cohort.kept(1)
    ledger = qc_cohort.write(tmp_path, [row], pictures=False)
    key, histogram = preview.key_of(row.input_digest), HuHistogram.from_box(hu, box)
    preview.write(LocalStorage(tmp_path), key, hu, (5.0, 2.0, 2.0), box, histogram)
    path = tmp_path / "report.html"
    path.write_text(render_report("one", ledger, LocalStorage(tmp_path)))
    page = Page(chrome, path)
    thumb = browser.pixels(page.chrome.find_element(By.CSS_SELECTOR, "tr .thumb"))
    found = [orange(plane) for plane in np.split(thumb, len(preview.PLANES), axis=1)]
    page.click("tr .open")
    planes = page.chrome.find_elements(By.CSS_SELECTOR, "#detail-planes svg")
    found += [orange(browser.pixels(plane)) for plane in planes]
    # Axial: 160 by 120 mm fill the slot's width. Others: 200 mm fill its height, 40 mm aside the
    # 160 and 80 mm aside the 120 are black. Shares of the slot: left, right, top, bottom.
    expected = [
        (40 / 160, 140 / 160, (20 + 30) / 160, (20 + 90) / 160),
        ((20 + 40) / 200, (20 + 140) / 200, 50 / 200, 150 / 200),
        ((40 + 30) / 200, (40 + 90) / 200, 50 / 200, 150 / 200),
    ]
    for (shares, size), want in zip(found, 2 * expected, strict=True):
        assert shares == pytest.approx(want, abs=2.5 / size)


def orange(plane: browser.Pixels) -> tuple[tuple[float, float, float, float], int]:
    """Left, right, top and bottom of the orange line as shares of a plane; and its size in px."""
    line = (plane[..., 0] - plane[..., 2] > 60) & (plane[..., 1] > 40)
    ys, xs = np.nonzero(line)
    height, width = line.shape
    assert not line[ys.min() + 4 : ys.max() - 3, xs.min() + 4 : xs.max() - 3].any()  # an outline
    for side in (line[:, xs.min() :][:, :2], line[:, : xs.max() + 1][:, -2:]):
        assert side.any(axis=1).sum() == np.ptp(ys) + 1  # a line is 1 or 2 px thick
    for side in (line[ys.min() :][:2], line[: ys.max() + 1][-2:]):
        assert side.any(axis=0).sum() == np.ptp(xs) + 1
    edges = ((xs.min() + 1) / width, xs.max() / width, (ys.min() + 1) / height, ys.max() / height)
    return edges, width


def test_the_same_ledger_gives_the_same_page(report: Path) -> None:
    ledger = report.parent / "runs" / "run" / "ledger.parquet"
    assert (
        render_report("voco preprocess: dicom", ledger, LocalStorage(report.parent))
        == report.read_text()
    )


def test_an_empty_ledger_is_a_page_too(chrome: webdriver.Chrome, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text(render_report("nothing", qc_cohort.write(tmp_path, []), LocalStorage(tmp_path)))
    page = Page(chrome, path)
    assert page.names() == []
    assert page.chrome.get_log("browser") == []
