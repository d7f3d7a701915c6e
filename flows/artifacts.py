"""Artifacts of a stage on Prefect's pages: its summary as a table, and a link."""

from __future__ import annotations

from pathlib import Path

from prefect import task
from prefect.artifacts import create_link_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE

from flows.summary import Summary, flatten
from voco_data.storage import is_url


@task(name="publish", task_run_name="publish {stage}", cache_policy=NO_CACHE)
def publish(stage: str, summary: Summary, link: str | Path) -> Summary:
    """Create the artifacts `<stage>-summary` (a table) and `<stage>-link` (a file or folder).

    Returns the summary, which flows return.

    Args:
        stage: Lower case letters, digits and dashes: it becomes part of the artifacts' keys.
        summary: The stage's summary, plain JSON values.
        link: What to open next: a path, published as a file: address, or a URL.
    """
    rows = [{"name": name, "value": value} for name, value in flatten(summary).items()]
    create_table_artifact(rows, key=f"{stage}-summary", description=f"Summary of {stage}")
    create_link_artifact(link_address(link), link_text=Path(link).name, key=f"{stage}-link")
    return summary


def link_address(link: str | Path) -> str:
    """The URL of a link: for a path, its file: URL."""
    return str(link) if is_url(link) else Path(link).absolute().as_uri()
