"""The report: self-contained, complete, and the paper's numbers are marked as the paper's."""

from __future__ import annotations

import itertools
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.support.small_finetune import RECIPE, small_cohort
from voco_data.errors import InputError, VocoError
from voco_models.evaluation import report
from voco_models.evaluation.markup import Line, choose_ticks, line_chart
from voco_models.stages.evaluation import evaluate
from voco_models.stages.finetuning import finetune

VOID = {"meta", "br", "hr", "img", "link", "input"}
SVG = "{http://www.w3.org/2000/svg}"


class Checker(HTMLParser):
    """Whether tags nest, and what a browser would fetch or run."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.bad: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        if tag in ("script", "iframe", "link", "object"):
            self.bad.append(tag)
        for name, value in attrs:
            outside = name in ("src", "href") and not (value or "").startswith(("#", "data:"))
            if outside or name.startswith("on"):
                self.bad.append(f"{tag} {name}={value}")

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.bad.append(f"</{tag}>")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    store, labels = small_cohort(folder)
    finetune(store, labels, folder / "run", recipe=RECIPE, device="cpu")
    evaluate(folder / "run")
    return folder / "run"


@pytest.fixture(scope="module")
def page(run: Path) -> str:
    return (run / report.REPORT).read_text()


def test_page_is_well_formed_and_self_contained(page: str) -> None:
    checker = Checker()
    checker.feed(page)
    assert checker.bad == []
    assert checker.open == []
    assert "@import" not in page
    assert "url(" not in page


def test_page_says_what_it_is_for(page: str) -> None:
    assert "Research use only; not a medical device" in page


def test_every_score_is_there_with_its_interval(run: Path, page: str) -> None:
    numbers = report.read_results(run)
    for interval in numbers["scores"].values():
        low, high = f"{interval['low']:.4f}", f"{interval['high']:.4f}"
        assert f"{interval['value']:.4f}" in page
        assert f"{low} to {high}" in page
    for arm in numbers["arms"].values():
        assert f"{arm['rsna_organ_3']:.4f}" in page
    assert "best for the test labels" in page


def test_the_papers_numbers_are_marked_and_in_a_section_of_their_own(page: str) -> None:
    before, after = page.split("<h2>The paper&#39;s own results</h2>")
    assert "0.3777" in after
    assert "0.3777" not in before
    assert "not ours" in after
    assert "comparable" in after


def test_table_1_equals_the_papers() -> None:
    rows = [(row.rsna, row.mean_ap, row.precision, row.recall) for row in report.PAPER_TABLE_1]
    assert rows == [
        (0.4133, 59.47, 60.84, 49.37),
        (0.3818, 58.71, 65.88, 53.13),
        (0.3777, 60.98, 66.71, 53.90),
        (0.4009, 59.20, 62.28, 52.05),
        (0.3925, 60.13, 63.84, 49.09),
        (0.3817, 61.91, 66.47, 54.88),
    ]


def test_sections_can_go_on_another_page(run: Path) -> None:
    sections = report.make_sections(run)
    assert sections[0].title == "Scores on held-out patients"
    assert len({section.title for section in sections}) == len(sections)
    assert sum("<svg" in section.html for section in sections) == 1


def test_missing_numbers_are_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="numbers of voco evaluate"):
        report.read_results(tmp_path)


# Charts


def parse(svg: str) -> ElementTree.Element:
    return ElementTree.fromstring(
        svg.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)
    )


def test_chart_places_points_between_its_ticks() -> None:
    svg = parse(line_chart([Line("a", [0, 10], [0, 5])], title="t", x_label="x", y_label="y"))
    (curve,) = svg.iter(f"{SVG}polyline")
    (x0, y0), (x1, y1) = (map(float, pair.split(",")) for pair in curve.attrib["points"].split())
    assert (x0, x1) == (74, 620)  # the plotting area, left to right
    assert (y0, y1) == (214, 14)  # and bottom to top
    labels = [text.text for text in svg.iter(f"{SVG}text")]
    assert {"0", "10", "5", "x", "y", "a"} <= set(labels)


def test_chart_breaks_at_holes_and_names_each_line() -> None:
    lines = [Line("a", [0, 1, 2, 3], [1, float("nan"), 2, 3]), Line("b", [0, 3], [0, 1])]
    svg = parse(line_chart(lines, title="t", x_label="x", y_label="y"))
    curves = list(svg.iter(f"{SVG}polyline"))
    assert len(curves) == 3
    assert len({curve.attrib["stroke"] for curve in curves}) == 2


def test_a_long_name_ends_inside_the_chart() -> None:
    svg = parse(line_chart([Line("n" * 60, [0, 1], [0, 1])], title="t", x_label="x", y_label="y"))
    (name,) = (text for text in svg.iter(f"{SVG}text") if text.text == "n" * 60)
    assert name.attrib["text-anchor"] == "end"
    assert float(name.attrib["x"]) < 620


def test_chart_escapes_names() -> None:
    text = line_chart([Line("<b>&", [0, 1], [0, 1])], title="<t>", x_label="x", y_label="y")
    assert "<b>" not in text
    assert parse(text) is not None


def test_an_empty_chart_is_refused() -> None:
    with pytest.raises(VocoError, match="no finite point"):
        line_chart([Line("a", [0.0], [float("nan")])], title="t", x_label="x", y_label="y")
    with pytest.raises(ValueError, match="1 x and 2 y"):
        Line("a", [0], [0, 1])


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 10, [0, 2, 4, 6, 8, 10]),
        (0.93, 1.12, [0.9, 0.95, 1.0, 1.05, 1.1, 1.15]),
        (7, 7, [3, 4, 5, 6, 7, 8, 9, 10, 11]),
        (0, 3000, [0, 1000, 2000, 3000]),
    ],
)
def test_ticks_are_round_and_span_the_data(low: float, high: float, expected: list[float]) -> None:
    found = choose_ticks(low, high)
    assert found[0] <= low
    assert found[-1] >= high
    if low != high:
        assert found == pytest.approx(expected)
    steps = {round(b - a, 9) for a, b in itertools.pairwise(found)}
    assert len(steps) == 1
    assert re.fullmatch(r"[125]0*\.?0*", f"{steps.pop():g}".replace("0.0", "").replace("0.", ""))
