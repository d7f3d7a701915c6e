"""Self-contained HTML pages: the template environment, static pages of sections, inline sources.

This module imports neither Pillow nor the previews: voco_models renders pages where only the
libraries for training are installed.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

_LOADER = PackageLoader("voco_data.qc")
ENVIRONMENT = Environment(loader=_LOADER, autoescape=True, undefined=StrictUndefined)
"""The templates of voco_data/qc/templates; values are escaped."""


@dataclass(frozen=True, slots=True)
class Section:
    """A part of a page with a heading."""

    title: str
    html: str
    """Markup that was rendered with escaping on."""


def render_page(title: str, sections: Sequence[Section], *, lead: str = "") -> str:
    """A page without scripts, as text; `lead` is a sentence below its title."""
    marked = [{"title": s.title, "html": Markup(s.html)} for s in sections]
    return ENVIRONMENT.get_template("page.html").render(title=title, lead=lead, sections=marked)


def read_source(name: str) -> str:
    """The text of a style or script in the folder of the templates; it is not rendered."""
    return _LOADER.get_source(ENVIRONMENT, name)[0]


def csp_hash(text: str) -> str:
    """The source expression of an inline style or script in a Content-Security-Policy."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
