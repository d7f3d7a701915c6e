"""Markup of the report: the templates of this package."""

from __future__ import annotations

from jinja2 import Environment, PackageLoader, StrictUndefined

ENVIRONMENT = Environment(
    loader=PackageLoader("voco_models.evaluation"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
"""Environment of this package's templates. Values are escaped."""


def render(template: str, **values: object) -> str:
    """Markup from a template of `voco_models/evaluation/templates`."""
    return ENVIRONMENT.get_template(template).render(**values)
