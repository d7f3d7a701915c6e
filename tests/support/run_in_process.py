"""A preprocess run whose series are read in this process, so that a test sees every write."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from voco_data.executors import SeriesOutcome
from voco_data.executors.worker import fill_series
from voco_data.ingest import open_run


def read_in_process(patch: pytest.MonkeyPatch) -> None:
    """Let runs use no worker processes."""

    def run(tasks: Sequence[Any], known: Any, workers: int) -> Iterator[list[SeriesOutcome]]:
        for task in tasks:
            yield [fill_series(task, known)]

    patch.setattr(open_run, "run_processes", run)
