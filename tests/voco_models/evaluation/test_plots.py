"""Plots: the same bytes for the same values, self-contained, and where the values are."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
import pytest

from voco_data.errors import VocoError
from voco_data.labels.targets import ORGAN_TARGETS
from voco_models.evaluation import plots
from voco_models.evaluation.measures import compute_measures
from voco_models.evaluation.plots import Line, line_plot

pytestmark = pytest.mark.usefixtures("drawn_plots")

SVG = "{http://www.w3.org/2000/svg}"
ORGANS = ORGAN_TARGETS.names
LINE = Line("a", [0, 1, 2], [1, 3, 2])
LABELS = {"title": "t", "x_label": "step", "y_label": "loss"}


@pytest.fixture(scope="module")
def groups() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    y = {o: rng.integers(3, size=50) for o in ORGANS}
    p = {o: rng.dirichlet((1, 1, 1), size=50) * 0.5 + 0.5 * np.eye(3)[y[o]] for o in ORGANS}
    y["spleen"] = np.minimum(y["spleen"], 1)  # nobody has a high grade
    called = {o: p[o].argmax(axis=1) for o in ORGANS}
    return dict(compute_measures(p, called, y, seed=0)["by_group"])


def parse(svg: str) -> ElementTree.Element:
    return ElementTree.fromstring(svg)


def texts(svg: str) -> list[str]:
    return ["".join(text.itertext()) for text in parse(svg).iter(f"{SVG}text")]


def curves(svg: str) -> list[np.ndarray]:
    """Vertices (K, 2) in px of the curves inside the axes: what is clipped to them."""
    found = []
    for path in parse(svg).iter(f"{SVG}path"):
        if "clip-path" in path.attrib and "stroke: #d9dee5" not in path.attrib["style"]:
            pairs = re.findall(r"[ML] (\S+) (\S+)", path.attrib["d"])
            found.append(np.array(pairs, float))
    return found


DRAWN: list[Callable[[dict[str, Any]], str]] = [
    plots.roc_plot,
    plots.reliability_plot,
    plots.decision_plot,
    lambda _: line_plot([LINE], **LABELS),
    lambda _: plots.difference_plot([("a", 0.1, -0.1, 0.2)], title="d", x_label="x"),
]


@pytest.mark.parametrize("draw", DRAWN)
def test_plots_are_the_same_bytes_and_need_nothing_else(
    draw: Callable[[dict[str, Any]], str], groups: dict[str, Any]
) -> None:
    svg = draw(groups)
    with mpl.rc_context({"font.size": 30, "axes.grid": False, "svg.fonttype": "path"}):
        assert draw(groups) == svg  # a user's own settings change nothing
    addresses = set(re.findall(r"\w+://[^\"'\s<]+", svg))
    assert addresses == {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert not re.search(r"<(script|style|metadata|image)|<!|20\d\d-\d\d-\d\d", svg)
    root = parse(svg)
    ids = [element.attrib["id"] for element in root.iter() if "id" in element.attrib]
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', svg))
    assert set(ids) == used
    assert len(ids) == len(used)


def test_bytes_do_not_depend_on_the_process() -> None:
    code = (
        "from voco_models.evaluation.plots import *;"
        "print(line_plot([Line('a', [0, 1, 2], [1, 3, 2])], title='t', x_label='step', "
        "y_label='loss'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.rstrip("\n") == line_plot([LINE], **LABELS)


def test_ids_of_two_plots_on_one_page_differ() -> None:
    one, other = (
        set(re.findall(r' id="([^"]+)"', line_plot([LINE], **LABELS | {"title": title})))
        for title in ("a", "b")
    )
    assert one
    assert not one & other


def test_points_are_where_their_values_are() -> None:
    (curve,) = curves(line_plot([Line("a", [0, 10, 20], [0, 5, 2.5])], **LABELS))
    x, y = curve.T
    assert (x[1] - x[0]) == pytest.approx(x[2] - x[1])
    assert (y[0] - y[2]) == pytest.approx((y[0] - y[1]) / 2)  # y grows downwards
    assert y[1] < y[0]


def test_texts_are_texts() -> None:
    found = texts(line_plot([Line("<b> & $x$", [0, 1, 2], [0, 1, 0])], **LABELS))
    assert {"<b> & $x$", "step", "loss", "0", "1", "2"} <= set(found)
    assert "0.5" not in found[: found.index("step")]  # steps are whole


def test_a_name_with_an_underscore_in_front_is_in_the_legend() -> None:
    found = texts(line_plot([LINE, Line("_hidden", [0, 1, 2], [0, 1, 0])], **LABELS))
    assert "_hidden" in {text.strip() for text in found}


def test_a_line_breaks_at_holes() -> None:
    svg = line_plot([Line("a", [0, 1, 2, 3, 4], [1, 2, float("nan"), 2, 3])], **LABELS)
    path = next(p for p in parse(svg).iter(f"{SVG}path") if "clip-path" in p.attrib
                and "stroke: #0b6bcb" in p.attrib["style"])  # fmt: skip
    assert path.attrib["d"].count("M") == 2


def test_an_empty_plot_is_refused() -> None:
    with pytest.raises(VocoError, match="no finite point"):
        line_plot([Line("a", [0.0], [float("nan")])], **LABELS)
    with pytest.raises(ValueError, match="1 x and 2 y"):
        Line("a", [0], [0, 1])


def test_every_organ_has_a_panel_with_names_and_units(groups: dict[str, Any]) -> None:
    for draw, words in (
        (plots.roc_plot, {"1 - specificity", "sensitivity", "chance"}),
        (plots.reliability_plot, {"predicted probability of an injury", "perfect"}),
        (plots.decision_plot, {"net benefit, per patient", "act on all", "act on none"}),
    ):
        assert {*ORGANS, *words} <= set(texts(draw(groups)))


def test_a_grade_without_patients_has_no_curve(groups: dict[str, Any]) -> None:
    found = texts(plots.roc_plot(groups))
    assert sum(text.startswith("high: ") for text in found) == 2
    assert sum(text.startswith("low: ") for text in found) == 3
    area = groups["liver"]["auroc"]["low"]["value"]
    assert f"low: {area:.2f}" in found


def test_differences_are_in_the_order_that_is_given() -> None:
    rows = [("first", 0.1, 0.0, 0.2), ("second", -0.1, -0.3, 0.1)]
    svg = plots.difference_plot(rows, title="d", x_label="x")
    places = {
        "".join(text.itertext()): float(text.attrib["y"])
        for text in parse(svg).iter(f"{SVG}text")
        if "y" in text.attrib
    }
    assert places["first"] < places["second"]


def test_missing_matplotlib_is_found_before_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    plots.check_matplotlib()
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ModuleNotFoundError, match="matplotlib"):
        plots.check_matplotlib()
