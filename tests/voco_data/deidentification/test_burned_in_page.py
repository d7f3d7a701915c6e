"""docs/burned-in-text.md: how its texts are drawn, and how its tables count."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from scripts import burned_in_page
from scripts.burned_in_page import BEGIN, END, LETTERS, PAGE, SIZES, Case, count_alarms
from scripts.drawn_text import FONTS, MARGIN_PX, TextStyle, burn_in, draw_words, render
from tests.support.ct_files import body


@pytest.mark.parametrize("font", FONTS)
@pytest.mark.parametrize("cap_px", SIZES)
def test_capital_letters_are_as_high_as_said(font: str, cap_px: int) -> None:
    for letter in "HEZ":
        assert render(letter, TextStyle(font=font, cap_px=cap_px)).shape[0] in (cap_px, cap_px + 1)


def test_edges_are_hard_grey_or_smoothed() -> None:
    hard, grey, smooth = (
        render("KIM", TextStyle(edges=edges)) for edges in ("hard", "grey", "smoothed")
    )
    assert set(np.unique(hard).tolist()) == {0.0, 1.0}
    assert len(np.unique(grey)) > 2
    assert smooth.max() < grey.max() == 1.0


def test_words_have_as_many_letters_as_asked() -> None:
    rng = np.random.default_rng(0)
    for letters in LETTERS:
        texts = [draw_words(rng, letters, "mixed") for _ in range(20)]
        assert {len(text.replace(" ", "")) for text in texts} == {letters}
        assert all(word.capitalize() == word for text in texts for word in text.split())


@pytest.mark.parametrize("place", ["corner", "edge", "anywhere"])
def test_text_is_blended_inside_the_margin_of_every_slice(place: str) -> None:
    rng = np.random.default_rng(1)
    for seed in range(10):
        hu = np.zeros((3, 60, 80), np.int16)
        style = TextStyle(cap_px=10, value_hu=1000, opacity=0.5, place=place)  # type: ignore[arg-type]
        assert burn_in(hu, render("LI", style), style, rng), seed
        assert set(np.unique(hu).tolist()) == {0, 500}
        assert (hu == hu[0]).all()
        inner = hu[:, MARGIN_PX:-MARGIN_PX, MARGIN_PX:-MARGIN_PX]
        assert np.count_nonzero(inner) == np.count_nonzero(hu)
        touches = [inner[0, 0], inner[0, -1], inner[0, :, 0], inner[0, :, -1]]
        assert sum(side.any() for side in touches) >= {"corner": 2, "edge": 1}.get(place, 0)


def test_a_text_that_is_too_wide_is_not_drawn() -> None:
    hu = np.zeros((1, 40, 40), np.int16)
    ink = render("ABRAMOWITZ", TextStyle())
    assert not burn_in(hu, ink, TextStyle(), np.random.default_rng(0))
    assert not hu.any()


def case(*, found: bool, everywhere: bool = True, size: int = 12, value: int = 3071) -> Case:
    return Case(
        letters=3,
        size=size,
        value=value,
        opacity=1.0,
        edges="hard",
        turned=False,
        font=FONTS[0],
        case="upper",
        ground="air",
        matrix=256,
        everywhere=everywhere,
        found={"usual": found, "strict": True},
    )


def test_the_promise_counts_large_bright_text_on_all_slices() -> None:
    cases = [
        *(case(found=True) for _ in range(3)),
        case(found=False),
        case(found=False, size=8),
        case(found=False, value=300),
        case(found=False, everywhere=False),
    ]
    lines = list(burned_in_page._recall_lines(cases))
    (promised,) = [line for line in lines if "or more" in line]
    assert "| 4 | 75.0 % | 100.0 % |" in promised
    (small,) = [line for line in lines if line.startswith("| 8 px")]
    assert small == "| 8 px | 1 | 0.0 % | 100.0 % | 0 |  |  |"


def test_alarms_count_what_is_searched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        burned_in_page, "looks_like_text", lambda hu, search: search == "strict" or hu[0, 0, 0] == 1
    )
    hu = np.zeros((2, 4, 4), np.int16)
    counted = count_alarms([hu, hu + 1], lambda series: [series[:1], series[1:]])
    assert counted.searched == 4
    assert counted.alarms == {"usual": 2, "strict": 4}


def test_the_page_is_written_between_its_marks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}stale\n{END}after\n")
    monkeypatch.setattr(burned_in_page, "PAGE", page)
    monkeypatch.setattr(burned_in_page, "_time_lines", lambda: ["| times |"])
    monkeypatch.setattr(burned_in_page, "make_phantoms", lambda _: [body((12, 128, 128))])
    monkeypatch.setattr(sys, "argv", ["burned_in_page.py", "--texts", "3", "--write"])
    burned_in_page.main()
    written = page.read_text()
    assert written.startswith("before\n" + BEGIN + "| without text |")
    assert written.endswith(END + "after\n")
    assert "| made-up series | 1 | 0.0 % | 0.0 % |" in written
    assert "stale" not in written


def test_the_page_holds_measured_tables() -> None:
    measured = PAGE.read_text().split(BEGIN)[1].split(END)[0]
    assert "| real series | " in measured
    assert "10 px or more" in measured
