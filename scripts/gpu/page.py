"""The page of a run of `make gpu`: tables between marks of docs/gpu.md."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

START, END = "<!-- measured -->", "<!-- end -->"
NOT_MEASURED = "Not measured on a GPU."

MACHINE = (
    "gpu",
    "gpu_memory_bytes",
    "driver",
    "cuda",
    "cudnn",
    "torch",
    "timm",
    "python",
    "commit",
)
"""What is said of the machine, with its settings for TF32."""
PRETRAIN = {
    "name": "row",
    "median": "ms",
    "p90": "p90",
    "p99": "p99",
    "crops_per_s": "crops/s",
    "mfu": "MFU",
    "wait_ms": "wait, ms",
    "allocated_bytes": "allocated, GB",
    "reserved_bytes": "reserved, GB",
    "first_step_s": "first step, s",
}
COST = {
    "name": "row",
    "parameters": "parameters, M",
    "forward_flops": "forward, GFLOP a volume",
    "step_flops": "step, GFLOP a volume",
    "saved_bytes": "saved, GB",
    "median": "ms",
    "p90": "p90",
    "allocated_bytes": "allocated, GB",
    "reserved_bytes": "reserved, GB",
    "largest_batch_24gb": "largest batch, 24 GB",
    "volumes_per_s": "volumes/s",
    "hours_3779": "h, 3,779",
    "hours_5910": "h, 5,910",
}
"""Column of a benchmark -> its head."""

SCALES = {"_bytes": 1e9, "_flops": 1e9, "parameters": 1e6}
"""End of a column's name -> the unit in which it is shown."""


def fill(document: str, results: Mapping[str, Any]) -> str:
    """The document with the results between the marks."""
    before, _, rest = document.partition(START)
    _, _, after = rest.partition(END)
    lines = "\n".join(write_lines(results))
    return f"{before}{START}\n{lines}\n{END}{after}"


def write_lines(results: Mapping[str, Any]) -> Iterator[str]:
    """The lines between the marks: machine, checks, benchmarks."""
    checks = results["checks"]
    benches = {c["name"]: c["found"] for c in checks if "rows" in c.get("found", {})}
    if results["device"] == "cpu":
        yield f"{NOT_MEASURED} A trial on the CPU, with small sizes:"
        yield ""
    elif benches:
        yield from _machine_lines(next(iter(benches.values()))["machine"])
    yield from make_table(
        ("check", "result", "seconds", "note"),
        [(c["name"], c["status"], _number(c.get("seconds")), _describe(c)) for c in checks],
    )
    for name, bench in benches.items():
        columns = COST if name == "bench_cost" else PRETRAIN
        shown = {
            column: head
            for column, head in columns.items()
            if any(row.get(column) is not None for row in bench["rows"])
        }
        yield ""
        yield f"`{name}`:"
        yield ""
        yield from make_table(
            tuple(shown.values()),
            [tuple(_cell(row, column) for column in shown) for row in bench["rows"]],
        )


def make_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """The lines of a Markdown table."""
    yield f"| {' | '.join(heads)} |"
    yield f"|{'---|' * len(heads)}"
    for row in rows:
        cells = (cell.replace("|", "\\|").replace("\n", " ") for cell in row)
        yield f"| {' | '.join(cells)} |"


def _machine_lines(machine: Mapping[str, Any]) -> Iterator[str]:
    named = [f"{name} {machine[name]}" for name in MACHINE if machine.get(name) is not None]
    named += [f"{name} {machine[name]}" for name in ("tf32_matmul", "tf32_cudnn")]
    yield f"{'; '.join(named)}."
    yield ""


def _describe(check: Mapping[str, Any]) -> str:
    """The note of a check, and what it found that is one value."""
    found = check.get("found", {})
    values = [f"{name} {_number(value)}" for name, value in found.items() if _is_number(value)]
    if "ratios" in found:
        values += [f"{name} {_number(value)}" for name, value in _flatten(found["ratios"])]
    return ", ".join(filter(None, (check.get("note", ""), *values)))


def _flatten(ratios: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    for name, value in ratios.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{name}: ")
        elif value is not None:
            yield f"{prefix}{name}", value


def _cell(row: Mapping[str, Any], column: str) -> str:
    value = row.get(column)
    if value is None:
        return row.get("note", "") if column == "median" else ""
    if not _is_number(value):
        return str(value)
    scale = next((s for end, s in SCALES.items() if column.endswith(end)), 1.0)
    return _number(value / scale)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _number(value: float | None) -> str:
    """Three significant digits; large numbers in full."""
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
