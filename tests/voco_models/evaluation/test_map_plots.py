"""Plots of maps over pictures: self-contained, and with the areas where the maps have them."""

from __future__ import annotations

import base64
import io
import re
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
import pytest
from PIL import Image

from voco_models.evaluation.plots import MapPanel, map_plot

pytestmark = pytest.mark.usefixtures("drawn_plots")

SVG, HREF = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}href"
Z, X, Y = 20, 30, 10


def panels(width: int, *, extent: tuple[float, float, float, float]) -> list[MapPanel]:
    """The truth, and a prediction: the first organ low on the left, the second nowhere."""
    picture = np.full((Z, width), 100, np.uint8)
    maps = np.zeros((2, Z, width), bool)
    maps[0, : Z // 4, : width // 2] = True
    return [
        MapPanel("mask", picture, maps, None, extent),
        MapPanel("arm_1", picture, np.zeros_like(maps), maps, extent),
    ]


@pytest.fixture(scope="module")
def svg(drawn_plots: None) -> str:
    rows = {
        "x, mm": panels(X, extent=(-150.0, 150.0, 0.0, 200.0)),
        "y, mm": panels(Y, extent=(0.0, 100.0, 0.0, 200.0)),
    }
    return map_plot(rows, ["liver", "kidney_left"], title="Patient <1>", y_label="z, mm")


def images(svg: str) -> list[np.ndarray]:
    """Pictures as RGB (rows, columns, 3), in the order of the panels."""
    found = []
    for element in ElementTree.fromstring(svg).iter(f"{SVG}image"):
        kind, _, data = element.attrib[HREF].partition(",")
        assert kind == "data:image/png;base64"
        with Image.open(io.BytesIO(base64.b64decode(data))) as image:
            pixels = np.asarray(image.convert("RGB")).astype(int)
        # matplotlib writes pictures upside down, and turns them by a transform.
        turned = re.search(r"scale\(1 -1\)", element.attrib.get("transform", ""))
        found.append(pixels[::-1] if turned else pixels)
    return found


def test_the_same_values_give_the_same_bytes_and_nothing_is_loaded(svg: str) -> None:
    rows = {
        "x, mm": panels(X, extent=(-150.0, 150.0, 0.0, 200.0)),
        "y, mm": panels(Y, extent=(0.0, 100.0, 0.0, 200.0)),
    }
    with mpl.rc_context({"font.size": 30, "axes.grid": True}):
        again = map_plot(rows, ["liver", "kidney_left"], title="Patient <1>", y_label="z, mm")
    assert again == svg
    addresses = set(re.findall(r"\w+://[^\"'\s<]+", svg))
    assert addresses == {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert not re.search(r"<(script|style|metadata)|<!|20\d\d-\d\d-\d\d", svg)


def test_axes_are_in_mm_and_all_is_named(svg: str) -> None:
    texts = [
        "".join(text.itertext()).strip() for text in ElementTree.fromstring(svg).iter(f"{SVG}text")
    ]
    assert {"mask", "arm_1", "liver", "kidney_left", "x, mm", "y, mm", "z, mm"} <= set(texts)
    assert texts.count("mask") == 1
    assert {"−100", "100", "0", "50"} <= set(texts)


def test_areas_are_where_the_maps_are(svg: str) -> None:
    """z grows upwards, so a map of low z is at the bottom."""
    shown = images(svg)
    assert len(shown) == 4
    for number in (0, 2):  # the truth of both planes
        rows, columns, _ = shown[number].shape
        is_coloured = np.ptp(shown[number], axis=2) > 20
        assert is_coloured[int(0.85 * rows), int(0.2 * columns)]
        assert not is_coloured[int(0.2 * rows), int(0.2 * columns)]
        assert not is_coloured[int(0.85 * rows), int(0.8 * columns)]
        assert is_coloured.mean() == pytest.approx(1 / 8, abs=0.03)
    for number in (1, 3):  # nothing is predicted
        assert (np.ptp(shown[number], axis=2) == 0).all()


def test_a_millimetre_is_as_long_in_all_directions(svg: str) -> None:
    first, _, second, _ = images(svg)
    assert first.shape[1] / first.shape[0] == pytest.approx(300 / 200, abs=0.03)
    assert second.shape[1] / second.shape[0] == pytest.approx(100 / 200, abs=0.03)


def test_outlines_are_lines_around_the_true_areas(svg: str) -> None:
    """Of the first organ, in the panels of the prediction alone."""
    lines = [
        path
        for path in ElementTree.fromstring(svg).iter(f"{SVG}path")
        if "fill: none" in path.attrib.get("style", "")
        and "stroke: #0b6bcb" in path.attrib.get("style", "")
    ]
    assert len(lines) == 2
    for line in lines:
        numbers = np.array(re.findall(r"(\S+) (\S+)", re.sub("[MLz]", "", line.attrib["d"])), float)
        assert len(numbers) > 4


def test_boxes_are_dashed_rectangles_in_mm() -> None:
    """Of the second organ alone, and not of the first, which has none."""
    extent = (-150.0, 150.0, 0.0, 200.0)
    picture, maps = np.full((Z, X), 100, np.uint8), np.zeros((2, Z, X), bool)
    box = (-150.0, 0.0, 50.0, 100.0)
    panel = MapPanel("boxes", picture, maps, None, extent, (None, box))
    svg = map_plot({"x, mm": [panel]}, ["liver", "spleen"], title="Boxes", y_label="z, mm")
    (dashed,) = [
        path
        for path in ElementTree.fromstring(svg).iter(f"{SVG}path")
        if "stroke-dasharray" in path.attrib.get("style", "")
    ]
    assert "stroke: #c2410c" in dashed.attrib["style"]
    corners = np.array(re.findall(r"(\S+) (\S+)", re.sub("[MLz]", "", dashed.attrib["d"])), float)
    width, height = np.ptp(corners, axis=0)
    assert width / height == pytest.approx(150 / 50, abs=0.01)
