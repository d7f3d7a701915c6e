"""What docs/metrics.md says of Prefect's own metrics, on a real server."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from tests.support import prefect_site
from tests.support.prefect_site import Site, running

pytestmark = pytest.mark.xdist_group("prefect")


def metrics_address(site: Site) -> str:
    return site.env["PREFECT_API_URL"] + "/metrics"


def test_metrics_are_off_until_they_are_switched_on(site: Site) -> None:
    assert httpx.get(metrics_address(site)).status_code == httpx.codes.NOT_FOUND


def test_metrics_are_text_for_prometheus_without_counts_of_flow_runs(
    tmp_path: Path, prefect_database: Path
) -> None:
    site = prefect_site.prepare(tmp_path, prefect_database)
    site.env["PREFECT_SERVER_METRICS_ENABLED"] = "true"
    with site.api, running(site):
        answer = httpx.get(metrics_address(site))
        assert answer.headers["content-type"].startswith("text/plain; version=")
        lines = answer.text.splitlines()
        assert any(line.startswith("process_resident_memory_bytes ") for line in lines)
        assert any(line.startswith("# TYPE prefect_") for line in lines)
        assert not any(
            "flow_run" in line for line in lines
        )  # if this fails, tell it in the document
        assert (
            site.ask("/flow_runs/count", flow_runs={"state": {"name": {"any_": ["Failed"]}}}) == 0
        )
