"""The coordinator of a run keeps its books on disk: its memory is that of a small archive."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import json, sys, time
from dataclasses import replace

import numpy as np

from tests.support.small_stores import make_record
from voco_data.ingest import open_run, run
from voco_data.store.writer import commit_volume
from voco_data.batching import batched
from voco_data.executors.tasks import SeriesOutcome

GRID = np.zeros((2, 2, 2), np.uint8)


def outcome(task):
    number = int(task.series_uid)
    digest = f"{number:032x}"
    if number % 10 == 0:
        return SeriesOutcome(task.key, task.seen_key, reason="too_few_slices", detail="3")
    records = []
    for target in task.targets:
        record = make_record(target.row, GRID, target.spec, task.series_uid)
        record = replace(
            record,
            input_digest=digest,
            content_digest=digest,
            stat_digest=task.entry.stat_digest,
            patient_id=task.patient_id,
            study_uid=task.study_uid,
            series_uid=task.series_uid,
            source=task.source,
            instance_numbers=tuple(range(300)),
        )
        commit_volume(target.store, record, GRID)
        records.append(record)
    return SeriesOutcome(task.key, task.seen_key, digest, tuple(records))


read = []


def simulated(tasks, known, workers):
    for batch in batched(tasks, 100):
        read.extend(task.series_uid for task in batch)
        yield [outcome(task) for task in batch]


if __name__ == "__main__":
    open_run.run_processes = simulated
    began = time.monotonic()
    summary = run.preprocess(sys.argv[1], sys.argv[2], spec_file=sys.argv[3])
    print(json.dumps({
        "stored": summary.stored,
        "cached": summary.cached,
        "refused": summary.refused,
        "read": len(read),
        "lookup_seconds": summary.lookup_seconds,
        "seconds": time.monotonic() - began,
        "rss_mb": int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) / 1024,
    }))
"""
"""A run whose workers are made up: what is measured is the coordinator."""


def archive(folder: Path, series: int) -> Path:
    """A RATIC archive of `series` empty series: their files are never read."""
    lines = ["patient_id,series_id,aortic_hu,incomplete_organ"]
    for number in range(1, series + 1):
        file = folder / "train_images" / str(number // 2) / str(number) / "1.dcm"
        if not file.exists():
            file.parent.mkdir(parents=True)
            file.touch()
        lines.append(f"{number // 2},{number},200,0")
    (folder / "train_series_meta.csv").write_text("\n".join(lines) + "\n")
    return folder


def run(source: Path, root: Path) -> dict[str, float]:
    specs = root.parent / "specs.json"
    specs.write_text(json.dumps({"profile": "tiny", "grid": [2, 2, 2]}))
    command = [sys.executable, "-c", PROGRAM, source, root, specs]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


@pytest.mark.parametrize(
    ("count", "growth_mb"),
    [
        pytest.param(12_000, 32, marks=pytest.mark.slow),
        pytest.param(100_000, 64, marks=[pytest.mark.slow, pytest.mark.timeout(1800)]),
    ],
)
def test_the_clients_memory_is_flat(tmp_path: Path, count: int, growth_mb: int) -> None:
    # The caches of SQLite and of the allocator fill within the first 4,000 series.
    first, again = {}, {}
    for n in (4_000, count):
        source, root = archive(tmp_path / str(n), n), tmp_path / f"root{n}"
        first[n], again[n] = run(source, root), run(source, root)
        assert (first[n]["stored"], first[n]["refused"]) == (n - n // 10, n // 10)
        assert (again[n]["cached"], again[n]["refused"]) == (n - n // 10, n // 10)
    print(f"4,000 series: {first[4_000]}, {again[4_000]}; {count}: {first[count]}, {again[count]}")
    for runs in (first, again):
        assert runs[count]["rss_mb"] - runs[4_000]["rss_mb"] < growth_mb


def test_ten_series_more_cost_those_ten(tmp_path: Path) -> None:
    source, root = archive(tmp_path / "archive", 1_000), tmp_path / "root"
    first = run(source, root)
    assert (first["stored"], first["refused"], first["read"]) == (900, 100, 1_000)
    again = run(archive(source, 1_010), root)
    assert (again["stored"], again["cached"], again["refused"]) == (9, 900, 101)
    assert again["read"] == 10  # a refusal is remembered too
