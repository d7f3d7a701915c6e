"""Plots that are built and not drawn: matplotlib draws one in a tenth of a second, a page has many.

Most tests that train or evaluate write pages and never look at their plots. Tests of plots and of
pages use the fixture `drawn_plots`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from xml.sax.saxutils import quoteattr

from voco_models.evaluation import plots

_draw = plots._to_svg
_is_drawing = False


def _to_svg(figure: Any, title: str) -> str:
    if _is_drawing:
        return _draw(figure, title)
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1 1" role="img" '
        f"aria-label={quoteattr(title)}></svg>"
    )


def leave_plots_undrawn() -> None:
    """From now on, plots are empty in this process, outside `drawing`."""
    plots._to_svg = _to_svg


@contextmanager
def drawing(*, on: bool = True) -> Iterator[None]:
    """A context in which plots are drawn, or are not."""
    global _is_drawing
    before, _is_drawing = _is_drawing, on
    try:
        yield
    finally:
        _is_drawing = before
