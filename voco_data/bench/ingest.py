"""`voco bench ingest`: the time of one series to both grids, beside the floor and the peers."""

from __future__ import annotations

import json
import logging
import os
import platform
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median

from voco_data.bench.measure import Job, NotInstalledError, start, wait_for
from voco_data.bench.series import MATRIX, SLICES, write_bench_series
from voco_data.temporary_folders import temporary_folder

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table."""

    name: str
    function: str
    """`module.function` in voco_data.bench."""
    series: str = "rle"
    repeats: int = 3


ROWS = (
    Row("ours", "ours.fill_stores", repeats=15),
    Row("floor", "floor.make_grids", repeats=15),
    Row("ours, raw", "ours.fill_stores", "raw", repeats=15),
    Row("torch", "peers.torch_area", repeats=3),
    Row("simpleitk", "peers.simpleitk_linear", repeats=2),
    Row("simpleitk, raw", "peers.simpleitk_linear", "raw", repeats=3),
    Row("monai", "peers.monai_area", repeats=2),
    Row("naive", "peers.naive", repeats=2),
    Row("torchio", "peers.torchio_linear", repeats=2),
    Row("nnunet", "peers.nnunet", repeats=2),
    Row("headers", "ours.read_headers", repeats=15),
    Row("headers, pydicom", "peers.pydicom_headers", repeats=5),
)
RATIOS = {
    "floor": ("ours", "floor"),
    "naive": ("naive", "ours"),
    "simpleitk": ("simpleitk", "ours"),
    "monai": ("monai", "ours"),
    "torch": ("torch", "ours"),
    "raw_simpleitk": ("simpleitk, raw", "ours, raw"),
    "headers_pydicom": ("headers, pydicom", "headers"),
}
"""Each ratio: the first row's median over the second's."""
LIBRARIES = (
    "itk",
    "monai",
    "nnunetv2",
    "numpy",
    "pydicom",
    "scipy",
    "SimpleITK",
    "torch",
    "torchio",
)

WORKER_REPEATS = 40
"""Repeats of each of two concurrent workers: enough that both are busy most of the time."""

Line = dict[str, object]


def bench_ingest(*, slices: int = SLICES, matrix: int = MATRIX) -> dict[str, object]:
    """Measure every row, and return `rows`, `ratios` and `machine`.

    Each row has a process of its own, on one core with one thread; two workers have a core each.
    """
    cores = sorted(os.sched_getaffinity(0))
    with temporary_folder() as folder:
        log.info("bench: writing a series of %d slices of %d x %d", slices, matrix, matrix)
        write_bench_series(folder, slices=slices, matrix=matrix)
        lines = [_measure(row, folder, cores[0]) for row in ROWS]
        medians = {str(line["name"]): line["median"] for line in lines}
        worker_lines, gain = _two_workers(folder, cores)
    ratios: dict[str, float | None] = {
        name: _ratio(medians[top], medians[bottom]) for name, (top, bottom) in RATIOS.items()
    }
    return {
        "rows": lines + worker_lines,
        "ratios": ratios | {"two_workers": gain},
        "machine": _machine(cores, slices, matrix),
    }


def _measure(row: Row, folder: Path, core: int) -> Line:
    job = Job(row.function, folder / row.series, row.repeats)
    try:
        seconds = wait_for(start(job, core, os.environ))
    except NotInstalledError as missing:
        log.info("bench: %s: %s is not installed", row.name, missing)
        return _line(row.name, [], f"not installed: {missing}")
    except RuntimeError as error:
        log.warning("bench: %s failed: %s", row.name, error)
        return _line(row.name, [], f"failed: {error}")
    log.info("bench: %s: %.4f s", row.name, median(seconds))
    return _line(row.name, seconds)


def _line(name: str, seconds: list[float], note: str = "") -> Line:
    """A row of the table; without seconds, `note` is the reason."""
    return {
        "name": name,
        "median": round(median(seconds), 5) if seconds else None,
        "unit": "s",
        "least": round(min(seconds), 5) if seconds else None,
        "repeats": len(seconds),
        "note": note,
    }


def _two_workers(folder: Path, cores: list[int]) -> tuple[list[Line], float | None]:
    """Seconds a series of one worker and of two at once, and the gain in series a second."""
    if len(cores) < 2:
        return [_line("two workers", [], "this machine has one core")], None
    job = Job("ours.fill_stores", folder / "rle", WORKER_REPEATS)
    alone = wait_for(start(job, cores[0], os.environ))
    both = [start(job, core, os.environ) for core in cores[:2]]
    seconds = [wait_for(process) for process in both]
    rate = sum(1 / median(each) for each in seconds)
    line = _line("two workers", [sum(pair) / 4 for pair in zip(*seconds, strict=True)])
    return [_line("one worker", alone), line], round(rate * median(alone), 2)


def _ratio(top: object, bottom: object) -> float | None:
    if not isinstance(top, float) or not isinstance(bottom, float):
        return None
    return round(top / bottom, 2)


def _machine(cores: list[int], slices: int, matrix: int) -> Line:
    return {
        "processor": _processor(),
        "cores": len(cores),
        "python": platform.python_version(),
        "series": f"{slices} slices of {matrix} x {matrix}",
        "versions": {name: number for name in LIBRARIES if (number := _version(name))},
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def main() -> None:
    """Print the result as JSON."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    print(json.dumps(bench_ingest(), indent=1))


if __name__ == "__main__":
    main()
