"""Text in the pixels is seen; bones, implants, padding and the couch are not taken for text."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageDraw, ImageFont

from scripts.burned_in_page import draw_cases, read_folder
from scripts.drawn_text import TextStyle, burn_in, render
from tests.support.ct_files import body
from voco_data.deidentification import TextSearch
from voco_data.deidentification.burned_in import looks_like_text
from voco_data.phantom.domains import DOMAINS
from voco_data.phantom.plan import CohortSpec, plan_patient
from voco_data.phantom.render import acquire, render_scan


def scan() -> npt.NDArray[np.int16]:
    return body((40, 256, 256))


def write_text(hu: npt.NDArray[np.int16], text: str, size: int, value: int, at: slice) -> None:
    picture = Image.new("L", (hu.shape[2], hu.shape[1]))
    font = ImageFont.load_default(size)
    drawing = ImageDraw.Draw(picture)
    drawing.fontmode = "1"
    drawing.text((8, 8), text, 255, font)
    hu[at, np.asarray(picture) > 0] = value


@pytest.mark.parametrize("value", [3071, 1500])
@pytest.mark.parametrize("size", [11, 18, 30])
def test_a_name_on_every_slice_is_seen(size: int, value: int) -> None:
    hu = scan()
    write_text(hu, "DOE JANE 1970", size, value, slice(None))
    assert looks_like_text(hu)


def test_a_name_that_is_not_the_brightest_and_one_along_columns() -> None:
    hu = scan()
    write_text(hu, "DOE JANE 1970", 16, 1000, slice(None))
    hu[:, 100:110, 120:130] = np.random.default_rng(0).integers(1300, 1500, (40, 10, 10))
    assert looks_like_text(hu)
    assert looks_like_text(np.ascontiguousarray(hu.transpose(0, 2, 1)))
    black = scan()
    write_text(black[:, 100:, 60:], "DOE JANE 1970", 16, -1024, slice(None))
    assert looks_like_text(black)


def test_a_name_on_the_first_slice_alone_is_seen() -> None:
    hu = scan()
    write_text(hu, "ID 123456789", 14, 3071, slice(0, 1))
    assert looks_like_text(hu)


def draw(
    hu: npt.NDArray[np.int16], text: str, style: TextStyle, seed: int = 0
) -> npt.NDArray[np.int16]:
    """A copy of the slices with a text."""
    drawn = hu.copy()
    assert burn_in(drawn, render(text, style), style, np.random.default_rng(seed))
    return drawn


@pytest.fixture(scope="module")
def phantom() -> npt.NDArray[np.int16]:
    """A made-up scan of 256 x 256 pixels, with couch and bones."""
    plan = plan_patient(CohortSpec(patients=1, matrix=256, slices=24), 0)
    return acquire(render_scan(plan.model, plan.series[0].scan), plan.series[0].scan)


@pytest.mark.parametrize("text", ["KIM", "LI WU", "Kim", "Li Wu", "Meyer Anna", "ADAMSKY"])
@pytest.mark.parametrize(
    "style",
    [
        TextStyle(cap_px=10),
        TextStyle(cap_px=10, edges="smoothed", value_hu=1500),
        TextStyle(cap_px=12, edges="grey", turn_deg=4.0, place="anywhere"),
        TextStyle(cap_px=16, edges="smoothed", turn_deg=-5.0, opacity=0.8, value_hu=600),
        TextStyle(font="DejaVuSans-Bold", cap_px=24, edges="grey", place="edge"),
        TextStyle(font="bitmap", cap_px=20, edges="hard", place="edge"),
    ],
    ids=lambda style: f"{style.font}-{style.cap_px}-{style.edges}-{style.turn_deg:g}",
)
def test_short_smoothed_and_turned_text_is_seen(
    text: str, style: TextStyle, phantom: npt.NDArray[np.int16]
) -> None:
    assert looks_like_text(draw(phantom, text, style))


def test_grey_text_over_the_body_is_seen(phantom: npt.NDArray[np.int16]) -> None:
    middle = phantom[:, 90:170, 70:190]
    assert middle.mean() > -200, "the body is there"
    style = TextStyle(cap_px=12, edges="grey", value_hu=600, place="anywhere")
    found = [
        looks_like_text(draw(middle, text, style, seed))
        for seed, text in enumerate(["SCHMIDT", "Nguyen", "OZTURK K", "Garcia"])
    ]
    assert all(found)


def test_a_short_name_on_one_slice_is_seen(phantom: npt.NDArray[np.int16]) -> None:
    hu = phantom.copy()
    hu[:1] = draw(hu[:1], "KIM", TextStyle(cap_px=12, edges="grey"))
    assert looks_like_text(hu)


def test_a_strict_search_examines_every_slice(phantom: npt.NDArray[np.int16]) -> None:
    hu = np.repeat(phantom, 3, axis=0)
    between = set(range(len(hu))) - set(np.linspace(0, len(hu) - 1, 16).round().astype(int))
    alone = min(between)
    hu[alone : alone + 1] = draw(hu[alone : alone + 1], "JANE DOE", TextStyle(cap_px=14))
    assert not looks_like_text(hu)
    assert looks_like_text(hu, "strict")


def test_a_strict_search_finds_what_the_usual_one_finds(phantom: npt.NDArray[np.int16]) -> None:
    rng = np.random.default_rng(3)
    for _ in range(12):
        style = TextStyle(
            cap_px=int(rng.integers(8, 20)), edges="grey", value_hu=int(rng.integers(300, 2000))
        )
        hu = draw(phantom, "WU LI", style, int(rng.integers(99)))
        assert looks_like_text(hu, "strict") >= looks_like_text(hu)


def test_scans_are_not_text() -> None:
    assert not looks_like_text(scan())
    saturated = np.minimum(scan(), 200).astype(np.int16)  # the bar is one value now
    assert not looks_like_text(saturated)
    screws = scan()
    for row in range(60, 200, 20):  # implants at the end of the scanner's range
        screws[:, row : row + 6, 100:130] = 3071
        screws[:, row : row + 6, 140:170] = 3071
    assert not looks_like_text(screws)
    assert not looks_like_text(np.full((9, 64, 64), -1024, np.int16))


def test_rows_of_bars_are_not_text() -> None:
    hu = scan()
    hu[:, 100:120, 60:200:10] = 3071
    hu[:, 100:120, 61:200:10] = 3071
    assert not looks_like_text(hu)


def test_small_and_coarse_values_are_not_text(phantom: npt.NDArray[np.int16]) -> None:
    """Clipping, few grey levels and noise make pieces of one value, or of high contrast."""
    rng = np.random.default_rng(0)
    for changed in (
        np.minimum(phantom, 300),
        np.minimum(phantom, 1000),
        np.clip(phantom, -160, 240),
        phantom // 8 * 8,
        phantom // 32 * 32,
        phantom + rng.normal(0, 60, phantom.shape).round(),
        rng.normal(0, 60, phantom.shape).round(),
    ):
        assert not looks_like_text(np.asarray(changed, np.int16))


def test_phantoms_of_all_domains_are_not_text() -> None:
    """Couches, blankets, rods, clips, wires and contrast in the bowel."""
    spec = CohortSpec(patients=8, unlabelled=0, matrix=160, slices=24, domains=tuple(DOMAINS))
    for number in range(spec.patients):
        plan = plan_patient(spec, number)
        scan = plan.series[0].scan
        assert not looks_like_text(acquire(render_scan(plan.model, scan), scan)), number


@pytest.mark.real_ct
@pytest.mark.parametrize("search", ["usual", "strict"])
def test_real_series_are_not_text_and_text_in_them_is_seen(
    real_ct: Path, search: TextSearch
) -> None:
    """Every series gets six texts of the size and brightness that the docs promise to find."""
    folders = [real_ct, *([real_ct.parent / "ct-learning"] * (search == "usual"))]
    series = [hu for folder in folders if folder.exists() for hu in read_folder(folder)]
    assert len(series) > 3
    alarms = [looks_like_text(hu, search) for hu in series]
    assert sum(alarms) <= (0 if search == "usual" else 0.1 * len(series))
    rng = np.random.default_rng(5)
    cases = [case for hu in series for case in draw_cases(hu, 512, 12, rng)]
    promised = [case.found[search] for case in cases if case.is_promised]
    assert len(promised) >= 2 * len(series)
    assert np.mean(promised) >= 0.95


def test_phantoms_are_not_text() -> None:
    spec = CohortSpec(patients=6, unlabelled=0, matrix=128, slices=40)
    for number in range(spec.patients):
        plan = plan_patient(spec, number)
        for series in plan.series:
            assert not looks_like_text(acquire(render_scan(plan.model, series.scan), series.scan))
