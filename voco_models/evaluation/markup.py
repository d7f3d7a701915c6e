"""Markup of the report: templates, and line charts as inline SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from jinja2 import Environment, PackageLoader, StrictUndefined

from voco_data.errors import VocoError

ENVIRONMENT = Environment(
    loader=PackageLoader("voco_models.evaluation"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
"""Environment of this package's templates. Values are escaped."""
WIDTH, HEIGHT = 640.0, 260.0
LEFT, RIGHT, TOP, BOTTOM = 74.0, 20.0, 14.0, 46.0
"""Margins around the plotting area, in px."""
COLOURS = ("#0b6bcb", "#c2410c", "#15803d", "#7e22ce", "#a16207", "#0e7490")
"""Colours of the lines, in order. They also differ in lightness."""


def render(template: str, **values: object) -> str:
    """Markup from a template of `voco_models/evaluation/templates`."""
    return ENVIRONMENT.get_template(template).render(**values)


@dataclass(frozen=True, slots=True)
class Line:
    """A named curve with gaps at points that are not finite."""

    name: str
    x: Sequence[float]
    y: Sequence[float]

    def __post_init__(self) -> None:
        if len(self.x) != len(self.y):
            raise ValueError(f"line {self.name}: {len(self.x)} x and {len(self.y)} y")


def line_chart(lines: Sequence[Line], *, title: str, x_label: str, y_label: str) -> str:
    """An SVG element with axes, ticks, labels and a legend. VocoError without a finite point."""
    points = [
        (x, y)
        for line in lines
        for x, y in zip(line.x, line.y, strict=True)
        if math.isfinite(x) and math.isfinite(y)
    ]
    if not points:
        raise VocoError(f"chart {title!r}: there is no finite point to draw")
    x_ticks = choose_ticks(min(x for x, _ in points), max(x for x, _ in points))
    y_ticks = choose_ticks(min(y for _, y in points), max(y for _, y in points))
    x_axis = _Axis(x_ticks[0], x_ticks[-1], LEFT, WIDTH - RIGHT)
    y_axis = _Axis(y_ticks[0], y_ticks[-1], HEIGHT - BOTTOM, TOP)
    return render(
        "chart.svg",
        title=title,
        x_label=x_label,
        y_label=y_label,
        width=WIDTH,
        height=HEIGHT,
        left=LEFT,
        right=WIDTH - RIGHT,
        top=TOP,
        bottom=HEIGHT - BOTTOM,
        x_ticks=[(x_axis.position(t), _format_tick(t, x_ticks)) for t in x_ticks],
        y_ticks=[(y_axis.position(t), _format_tick(t, y_ticks)) for t in y_ticks],
        curves=[
            {
                "name": line.name,
                "colour": COLOURS[i % len(COLOURS)],
                "pieces": _pieces(line, x_axis, y_axis),
            }
            for i, line in enumerate(lines)
        ],
    )


def choose_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About `count` round values that span [low, high], at steps of 1, 2 or 5 times 10^n."""
    if high <= low:
        margin = abs(low) / 2 or 1.0
        low, high = low - margin, low + margin
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1.0, 2.0, 5.0, 10.0) if m * power >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [k * step for k in range(first, last + 1)]


@dataclass(frozen=True, slots=True)
class _Axis:
    """A linear map of [low, high] to [start_px, stop_px]."""

    low: float
    high: float
    start_px: float
    stop_px: float

    def position(self, value: float) -> float:
        """Position of a value in px."""
        fraction = (value - self.low) / (self.high - self.low)
        return round(self.start_px + fraction * (self.stop_px - self.start_px), 2)


def _pieces(line: Line, x_axis: _Axis, y_axis: _Axis) -> list[str]:
    """The `points` attribute of each piece between gaps."""
    pieces: list[list[str]] = [[]]
    for x, y in zip(line.x, line.y, strict=True):
        if math.isfinite(x) and math.isfinite(y):
            pieces[-1].append(f"{x_axis.position(x)},{y_axis.position(y)}")
        else:
            pieces.append([])
    return [" ".join(piece) for piece in pieces if piece]


def _format_tick(value: float, ticks: Sequence[float]) -> str:
    """The value with as many digits as the step between ticks needs."""
    digits = max(0, -math.floor(math.log10(ticks[1] - ticks[0]) + 1e-9))
    return f"{value:,.{digits}f}"
