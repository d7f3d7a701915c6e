"""Artifacts of a stage on Prefect's pages: its summary as a table, and its report.

A page that a server sends by http cannot open files, of its own machine or of another one. So a
path is a text, and a picture is part of the artifact.
"""

from __future__ import annotations

import base64
import re
from pathlib import Path
from platform import node
from typing import Any, Final

from prefect import task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE

from flows.summary import Summary, flatten
from voco_data.storage import REPORT, is_url

PICTURE_BYTES: Final = 300_000
"""Largest picture that is put into an artifact: artifacts are rows of the server's database."""
PLOT: Final = re.compile(r"<svg xmlns=.*?</svg>", re.DOTALL)
"""A plot on a page of voco. Other pictures need the style of their page."""


@task(name="publish", task_run_name="publish {stage}", cache_policy=NO_CACHE)
def publish(stage: str, summary: Summary, link: str | Path) -> Summary:
    """Create the artifacts `<stage>-summary` (a table) and `<stage>-report` (where it is, a plot).

    Returns the summary, which flows return.

    Args:
        stage: Lower case letters, digits and dashes: it becomes part of the artifacts' keys.
        summary: The stage's summary, plain JSON values.
        link: What to open next: a page, a folder with report.html, or a URL.
    """
    rows = [{"name": name, "value": rounded(value)} for name, value in flatten(summary).items()]
    create_table_artifact(rows, key=f"{stage}-summary", description=f"Summary of {stage}")
    create_markdown_artifact(describe_report(link), key=f"{stage}-report")
    return summary


def rounded(value: Any) -> Any:
    """Numbers with three significant digits; counts and all other values as they are."""
    if isinstance(value, float):
        return float(f"{value:.3g}")
    if isinstance(value, list):
        return [rounded(item) for item in value]
    return value


def describe_report(link: str | Path) -> str:
    """Markdown: the path of a report as text, and the first plot of its page."""
    if is_url(link):
        return f"Report: {link}"
    path = Path(link).absolute()
    page = path / REPORT if path.is_dir() else path
    lines = [f"Report: `{page if page.is_file() else path}` on {node()}"]
    if page.suffix == ".html" and page.is_file() and (plot := first_plot(page.read_text())):
        lines.append(f"![first plot of the report]({plot})")
    return "\n\n".join(lines)


def first_plot(html: str) -> str | None:
    """The first plot of a page as the address of an image; None without one, or if it is large."""
    found = PLOT.search(html)
    if found is None or len(found[0]) > PICTURE_BYTES:
        return None
    on_white = found[0].replace('style="', 'style="background:white;', 1)  # Prefect's may be dark
    return f"data:image/svg+xml;base64,{base64.b64encode(on_white.encode()).decode()}"
