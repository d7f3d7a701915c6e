"""The report: self-contained, complete, and the paper's numbers are marked as the paper's."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.support.small_finetune import RECIPE, small_cohort
from voco_data.errors import InputError
from voco_models.evaluation import report
from voco_models.stages.evaluation import evaluate
from voco_models.stages.finetuning import finetune

pytestmark = pytest.mark.usefixtures("drawn_plots")

VOID = {"meta", "br", "hr", "img", "link", "input"}


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
    assert "url(" not in page.replace("url(#", "")  # of clip paths in the same plot
    addresses = set(re.findall(r"[a-z]+://[^\"'\s<]+", page))
    assert addresses <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}


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
    with_plots = {section.title for section in sections if "<svg" in section.html}
    assert with_plots == {
        "Telling grades apart",
        "Probabilities",
        "Decision curves",
        "Training of the classifier",
    }


def test_every_measure_is_there_with_its_interval(run: Path, page: str) -> None:
    measures = report.read_results(run)["measures"]
    cells = []
    for group in (*measures["by_group"].values(), measures["over_groups"]):
        cells += [group["ece"], group["brier"]]
        cells += [*group["macro_precision"].values(), *group["macro_recall"].values()]
    for group in measures["by_group"].values():
        cells += [*group["auroc"].values(), group["sensitivity"], *group["specificity"].values()]
    texts = [
        f"{cell['value']:.2f} ({cell['low']:.2f} to {cell['high']:.2f})" for cell in cells if cell
    ]
    assert len(texts) > 20
    assert [text for text in texts if text not in page] == []


def test_evaluations_of_older_versions_have_no_measures(run: Path) -> None:
    numbers = report.read_results(run)
    del numbers["measures"], numbers["test_set"]
    titles = [section.title for section in report.make_sections(run, numbers)]
    assert "Scores on held-out patients" in titles
    assert "Decision curves" not in titles


def test_missing_numbers_are_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="numbers of voco evaluate"):
        report.read_results(tmp_path)
