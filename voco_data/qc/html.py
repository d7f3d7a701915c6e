"""One self-contained HTML page from sections: no script, no network, nothing but the file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

ENVIRONMENT = Environment(
    loader=PackageLoader("voco_data.qc"), autoescape=True, undefined=StrictUndefined
)


@dataclass(frozen=True, slots=True)
class Section:
    """A headed part of a page. `html` is markup that was made with escaping on."""

    title: str
    html: str


def render(title: str, sections: Sequence[Section], *, lead: str = "") -> str:
    """The whole page as text."""
    marked = [{"title": s.title, "html": Markup(s.html)} for s in sections]
    return ENVIRONMENT.get_template("page.html").render(title=title, lead=lead, sections=marked)
