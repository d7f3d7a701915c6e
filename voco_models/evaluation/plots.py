"""Plots as inline SVG, drawn by matplotlib. The same values give the same bytes.

Only this module imports matplotlib, and only when it draws.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import quoteattr

import numpy as np
import numpy.typing as npt

from voco_data.errors import VocoError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = ("#0b6bcb", "#c2410c", "#15803d", "#7e22ce", "#a16207", "#0e7490")
"""Colours of the lines, in order. They also differ in lightness."""
DASHES = ("-", "--", "-.", ":")
"""Styles of the lines, in order, for those who do not tell the colours apart."""
INK, SOFT, GRID = "#1c2430", "#5b6675", "#d9dee5"
WIDTH_IN, HEIGHT_IN = 7.2, 3.0
"""Size of a plot of lines, in inches of 72 px."""
PANEL_IN = 3.6
"""Width and height of one of several panels."""
MAP_IN, MAP_OPACITY = 2.0, 0.45
"""Width of a panel with maps, and how much the maps cover of the picture below them."""
STYLE: Mapping[str, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": SOFT,
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.prop_cycle": "cycler('color', [" + ", ".join(f"'{c}'" for c in COLOURS) + "])",
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 10.5,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Verdana", "sans-serif"],
    "font.size": 9.5,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "svg.fonttype": "none",
    "text.color": INK,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
}
STYLED = {name.partition(".")[0] for name in STYLE} | {"figure", "path", "savefig"}
"""Groups of matplotlib's settings that are set back, so that a user's own ones change nothing."""
METADATA = dict.fromkeys(("Date", "Creator", "Format", "Type"))
"""What matplotlib would write into a file: a date and its own version among it. Nothing is."""

Draw = Callable[["Axes", str], None]
"""Draws one panel, that of the group of a name."""


@dataclass(frozen=True, slots=True)
class Line:
    """A named curve with gaps at points that are not finite."""

    name: str
    x: Sequence[float]
    y: Sequence[float]

    low: Sequence[float] | None = None
    high: Sequence[float] | None = None
    """Intervals of the points, if they have any."""

    def __post_init__(self) -> None:
        if len(self.x) != len(self.y):
            raise ValueError(f"line {self.name}: {len(self.x)} x and {len(self.y)} y")

    @property
    def has_points(self) -> bool:
        """Whether there is something to draw."""
        return any(
            math.isfinite(x) and math.isfinite(y) for x, y in zip(self.x, self.y, strict=True)
        )


def check_matplotlib() -> None:
    """Raise ModuleNotFoundError if matplotlib is missing: before long work, not after it."""
    import matplotlib  # noqa: F401


def line_plot(lines: Sequence[Line], *, title: str, x_label: str, y_label: str) -> str:
    """Curves over one axis with a legend, as an SVG element. VocoError without a finite point."""
    if not any(line.has_points for line in lines):
        raise VocoError(f"chart {title!r}: there is no finite point to draw")
    with _drawing():
        from matplotlib.figure import Figure

        figure = Figure(figsize=(WIDTH_IN, HEIGHT_IN), layout="constrained")
        axes = figure.subplots()
        for i, line in enumerate(lines):
            dashes = DASHES[i // len(COLOURS) % len(DASHES)]
            few = "." if sum(map(math.isfinite, line.y)) < 3 else ""
            (drawn,) = axes.plot(line.x, line.y, dashes, label=_plain(line.name), marker=few)
            if line.low is not None and line.high is not None:
                axes.vlines(line.x, line.low, line.high, colors=drawn.get_color(), linewidth=1)
        if all(float(x).is_integer() for line in lines for x in line.x):
            axes.locator_params(axis="x", integer=True)
        axes.locator_params(axis="y", nbins=6)
        axes.set_xlabel(_plain(x_label))
        axes.set_ylabel(_plain(y_label))
        axes.legend(loc="best")
        return _to_svg(figure, title)


def roc_plot(groups: Mapping[str, Mapping[str, Any]]) -> str:
    """ROC curves of the classes of each group, from the values of `compute_measures`."""

    def draw(axes: Axes, name: str) -> None:
        group = groups[name]
        axes.plot([0, 1], [0, 1], ":", color=SOFT, linewidth=1, label="chance")
        for i, (grade, curve) in enumerate(group["roc"].items()):
            label = f"{grade}: {group['auroc'][grade]['value']:.2f}"
            x, y = curve["false_positive_rate"], curve["true_positive_rate"]
            axes.plot(x, y, DASHES[i % len(DASHES)], color=COLOURS[i % len(COLOURS)], label=label)
        axes.set_xlim(-0.02, 1.02)
        axes.set_ylim(-0.02, 1.02)
        axes.set_aspect("equal")
        axes.legend(loc="lower right", title="grade: AUROC", title_fontsize=8.5)

    return _panels(
        groups,
        draw,
        title="ROC curves",
        x_label="1 - specificity",
        y_label="sensitivity",
        one_legend=False,
    )


def reliability_plot(groups: Mapping[str, Mapping[str, Any]]) -> str:
    """Observed shares of injuries over predicted ones, with intervals and numbers of patients."""

    def draw(axes: Axes, name: str) -> None:
        bins = groups[name]["reliability"]
        axes.plot([0, 1], [0, 1], ":", color=SOFT, linewidth=1, label="perfect")
        x = [b["predicted"] for b in bins]
        y = [b["observed"]["value"] for b in bins]
        below = [b["observed"]["value"] - b["observed"]["low"] for b in bins]
        above = [b["observed"]["high"] - b["observed"]["value"] for b in bins]
        axes.errorbar(
            x, y, yerr=[below, above], fmt="-", linewidth=1, elinewidth=1, capsize=2,
            color=COLOURS[0], label="model, 95 % interval",
        )  # fmt: skip
        total = sum(b["patients"] for b in bins)
        areas = [12 + 120 * b["patients"] / total for b in bins]
        axes.scatter(x, y, s=areas, color=COLOURS[0], zorder=3, label="area: patients")
        axes.set_xlim(-0.04, 1.04)
        axes.set_ylim(-0.04, 1.04)
        axes.set_aspect("equal")

    return _panels(
        groups,
        draw,
        title="Reliability",
        x_label="predicted probability of an injury",
        y_label="observed share of injuries",
    )


def decision_plot(groups: Mapping[str, Mapping[str, Any]]) -> str:
    """Net benefit of acting on an injury over the threshold, beside acting on all and none."""

    def draw(axes: Axes, name: str) -> None:
        curve = groups[name]["decision_curve"]
        percent = [100 * t for t in curve["threshold"]]
        axes.plot(percent, curve["treat_all"], "--", color=COLOURS[1], label="act on all")
        axes.axhline(0, color=SOFT, linestyle=":", linewidth=1.2, label="act on none")
        axes.fill_between(
            percent, curve["low"], curve["high"], color=COLOURS[0], alpha=0.15, linewidth=0
        )
        axes.plot(percent, curve["model"], color=COLOURS[0], label="model, 95 % interval")
        top = max(0.05, *curve["high"], *curve["treat_all"])
        axes.set_xlim(0, 100)
        axes.set_ylim(-0.25 * top, 1.1 * top)

    return _panels(
        groups,
        draw,
        title="Decision curves",
        x_label="threshold: probability to act from, %",
        y_label="net benefit, per patient",
        share_y=False,
    )


def difference_plot(
    rows: Sequence[tuple[str, float, float, float]], *, title: str, x_label: str
) -> str:
    """Differences with their intervals, one below the other: name, value, low, high of each."""
    with _drawing():
        from matplotlib.figure import Figure

        figure = Figure(figsize=(WIDTH_IN, 0.8 + 0.26 * len(rows)), layout="constrained")
        axes = figure.subplots()
        places = range(len(rows), 0, -1)
        values = [value for _, value, _, _ in rows]
        below = [value - low for _, value, low, _ in rows]
        above = [high - value for _, value, _, high in rows]
        axes.axvline(0, color=SOFT, linestyle=":", linewidth=1.2)
        axes.errorbar(
            values, places, xerr=[below, above], fmt="o", markersize=4, capsize=2, elinewidth=1.2,
            color=COLOURS[0],
        )  # fmt: skip
        axes.set_yticks(list(places), [_plain(name) for name, _, _, _ in rows])
        axes.set_ylim(0.3, len(rows) + 0.7)
        axes.set_xlabel(_plain(x_label))
        return _to_svg(figure, title)


@dataclass(frozen=True, slots=True)
class MapPanel:
    """Maps of organs over a picture of the body, on one grid (Z, W) whose z grows upwards."""

    title: str
    picture: npt.NDArray[np.uint8]
    """(Z, W): grey values."""
    maps: npt.NDArray[np.bool_]
    """(C, Z, W): filled areas of C organs, which may overlap."""
    outlines: npt.NDArray[np.bool_] | None
    """(C, Z, W): areas whose edges are drawn as lines, such as the true ones."""
    extent_mm: tuple[float, float, float, float]
    """Left, right, lower and upper end of the picture."""
    boxes_mm: Sequence[tuple[float, float, float, float] | None] = ()
    """Left, right, lower and upper end of a dashed rectangle for each of the C organs, or none."""


def map_plot(
    rows: Mapping[str, Sequence[MapPanel]], organs: Sequence[str], *, title: str, y_label: str
) -> str:
    """Rows of equally many panels, a row for each label of the axis along W.

    A millimetre is as long along Z as along W. Titles of the first row are those of the columns.
    """
    colours = [COLOURS[i % len(COLOURS)] for i in range(len(organs))]
    first = [panels[0].extent_mm for panels in rows.values()]
    heights = [top - bottom for _, _, bottom, top in first]
    width_mm = max(right - left for left, right, _, _ in first)
    columns = len(next(iter(rows.values())))
    with _drawing():
        from matplotlib.figure import Figure

        inches = MAP_IN * sum(heights) / width_mm + 0.5 * len(rows) + 0.5
        lines = -(-len(organs) // (2 * columns + 1))  # of the legend
        size = (MAP_IN * columns + 0.7, inches + 0.2 * (lines - 1))
        figure = Figure(figsize=size, layout="constrained")
        grid = figure.subplots(
            len(rows), columns, squeeze=False, sharey="row", height_ratios=heights
        )
        for number, (label, panels) in enumerate(rows.items()):
            for axes, panel in zip(grid[number], panels, strict=True):
                _draw_maps(axes, panel, colours)
                axes.set_xlabel(_plain(label))
                if number == 0:
                    axes.set_title(_plain(panel.title))
        figure.supylabel(_plain(y_label), fontsize=9.5)
        patches = _patches(organs, colours)
        figure.legend(handles=patches, loc="outside lower center", ncols=2 * columns + 1)
        return _to_svg(figure, title)


def _draw_maps(axes: Axes, panel: MapPanel, colours: Sequence[str]) -> None:
    from matplotlib.colors import to_rgb

    left, right, bottom, top = panel.extent_mm
    mixed = np.repeat(panel.picture[..., None] / 255, 3, axis=2)
    for own, colour in zip(panel.maps, colours, strict=True):
        mixed[own] += MAP_OPACITY * (np.array(to_rgb(colour)) - mixed[own])
    axes.grid(visible=False)
    axes.imshow(mixed, origin="lower", extent=panel.extent_mm, interpolation="nearest")
    if panel.outlines is not None:
        # Middles of the pixels, and of one more on each side, so that all outlines are closed.
        w, z = (
            low + (np.arange(n + 2) - 0.5) * (high - low) / n
            for low, high, n in zip((left, bottom), (right, top), mixed.shape[1::-1], strict=True)
        )
        for own, colour in zip(panel.outlines, colours, strict=True):
            if own.any():
                padded = np.pad(own.astype(np.float64), 1)
                axes.contour(w, z, padded, levels=[0.5], colors=[colour], linewidths=1)
    for box, colour in zip(panel.boxes_mm, colours, strict=False):
        if box is not None:
            _draw_rectangle(axes, box, colour)
    axes.set_xlim(left, right)
    axes.set_ylim(bottom, top)
    axes.set_aspect("equal")
    axes.locator_params(axis="x", nbins=4)
    axes.locator_params(axis="y", nbins=6)


def _draw_rectangle(axes: Axes, box_mm: tuple[float, float, float, float], colour: str) -> None:
    from matplotlib.patches import Rectangle

    left, right, bottom, top = box_mm
    axes.add_patch(
        Rectangle(
            (left, bottom), right - left, top - bottom, fill=False, edgecolor=colour, linestyle="--"
        )
    )


def _patches(names: Sequence[str], colours: Sequence[str]) -> list[Any]:
    """What a legend of areas has."""
    from matplotlib.patches import Patch

    return [
        Patch(facecolor=colour, alpha=0.7, label=_plain(name))
        for name, colour in zip(names, colours, strict=True)
    ]


def _panels(
    groups: Mapping[str, object],
    draw: Draw,
    *,
    title: str,
    x_label: str,
    y_label: str,
    share_y: bool = True,
    one_legend: bool = True,
) -> str:
    """A panel for each group, side by side, with common labels of the axes and a common legend."""
    with _drawing():
        from matplotlib.figure import Figure

        size = (PANEL_IN * len(groups), PANEL_IN)
        figure = Figure(figsize=size, layout="constrained")
        row = figure.subplots(1, len(groups), sharey=share_y, squeeze=False)[0]
        for axes, name in zip(row, groups, strict=True):
            axes.set_title(_plain(name))
            draw(axes, name)
        if one_legend:
            handles, labels = row[0].get_legend_handles_labels()
            figure.legend(handles, labels, loc="outside upper center", ncols=len(labels))
        figure.supxlabel(x_label, fontsize=9.5)
        figure.supylabel(y_label, fontsize=9.5)
        return _to_svg(figure, title)


@contextmanager
def _drawing() -> Iterator[None]:
    """matplotlib's own defaults with our style, whatever the user's settings are."""
    from matplotlib import rc_context, rcParamsDefault

    settings: Any = {k: v for k, v in rcParamsDefault.items() if k.partition(".")[0] in STYLED}
    with rc_context(settings | STYLE):
        yield


def _plain(text: str) -> str:
    """A text in which matplotlib finds no mathematics, and that it does not leave out of a legend
    because of an underscore at its beginning.
    """
    plain = text.replace("$", r"\$")
    return f" {plain}" if plain.startswith("_") else plain


def _to_svg(figure: Any, title: str) -> str:
    """The figure as an SVG element with a title: no prologue, and no ids that nothing refers to.

    A page has several figures, so the ids that are needed depend on the title.
    """
    from matplotlib import rc_context

    file = io.StringIO()
    with rc_context({"svg.hashsalt": f"voco {title}"}):
        figure.savefig(file, format="svg", metadata=METADATA, transparent=True)
    text = file.getvalue()
    body = re.sub(r"\s*<style.*?</style>", "", text[text.index(">", text.index("<svg")) + 1 :])
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', body))
    body = re.sub(r' id="([^"]+)"', lambda m: m[0] if m[1] in used else "", body)
    width, height = (round(72 * inches, 2) for inches in figure.get_size_inches())
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="0 0 {width:g} {height:g}" width="{width * 4 / 3:g}" height="{height * 4 / 3:g}" '
        f'role="img" aria-label={quoteattr(title)} '
        f'style="max-width:100%;height:auto;stroke-linejoin:round">{body.rstrip()}'
    )
