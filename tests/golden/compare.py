"""Whether two commits train alike: the golden loss curves of both, bit for bit.

    python tests/golden/compare.py BEFORE [AFTER] [--precision float64] [CASE ...]

BEFORE and AFTER are anything that git calls a commit; AFTER is HEAD if left out. Both are checked
out into temporary worktrees and run on this machine, with one thread each, in the current
environment. A commit is run with its own `curves.py` and `stores.py`; one that has none is run
with those beside this file. Prints where the curves differ; the exit code is then 1, and 2 if a
commit cannot be run.

To write the curves that are kept in the repository, after a change of training mathematics that
is meant:

    python tests/golden/compare.py --write
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
CHECKOUT = HERE.parents[1]
GOLDEN = HERE.relative_to(CHECKOUT)
PLATFORM = HERE / "platform.json"
PRECISIONS = ("float32", "float64")

Curve = Mapping[str, Sequence[float]]


class CannotRun(Exception):
    """A commit that does not exist, or whose training cannot be run."""


def differences(before: Curve, after: Curve, *, tolerance: float = 0.0) -> list[str]:
    """A line for each column that differs by more than `tolerance`, relative to `before`."""
    lines = []
    for name in {**before, **after}:
        if name not in before or name not in after:
            lines.append(f"{name}: {'gone' if name in before else 'new'}")
            continue
        if len(before[name]) != len(after[name]):
            lines.append(f"{name}: {len(before[name])} steps, now {len(after[name])}")
            continue
        steps = [
            (step, old, new)
            for step, (old, new) in enumerate(zip(before[name], after[name], strict=True), start=1)
            if old != new and not abs(old - new) <= tolerance * abs(old)
        ]
        if steps:
            first, old, new = steps[0]
            largest = max(abs(b - a) / max(abs(a), 1e-300) for _, a, b in steps)
            lines.append(
                f"{name}: {len(steps)} of {len(before[name])} steps differ, first step {first}: "
                f"{old!r} is {new!r}; largest relative difference {largest:.1e}"
            )
    return lines


@dataclass(frozen=True, slots=True)
class Run:
    """Curves to be made in a process of their own."""

    code: Path
    """Checkout with the training code."""
    stores: Path
    options: Sequence[str]
    """For `curves.py`: precision and cases."""


def run_all(runs: Sequence[Run], names: Sequence[str]) -> list[dict[str, Any]]:
    """What `curves.py` wrote for each run, all at the same time. CannotRun with the run's name."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as started:
        outs = [Path(folder) / f"{number}.json" for number in range(len(runs))]
        processes = []
        for run, out in zip(runs, outs, strict=True):
            script = run.code / GOLDEN / "curves.py"
            script = script if script.exists() else HERE / "curves.py"
            process = started.enter_context(
                _python(run.code, script, run.stores, out, *run.options)
            )
            started.callback(process.kill)
            processes.append(process)
        for process, name in zip(processes, names, strict=True):
            _wait(process, name)
        return [json.loads(out.read_text()) for out in outs]


def make_stores(code: Path, stores: Path) -> None:
    """Fill the folder `stores` with the checkout in `code`, or with this one."""
    able = code if (code / GOLDEN / "stores.py").exists() else CHECKOUT
    _wait(_python(able, "-m", ".".join((*GOLDEN.parts, "stores")), stores), "stores")


def _wait(process: subprocess.Popen[bytes], what: str) -> None:
    """Wait for a process. CannotRun with what it printed if it fails."""
    _, errors = process.communicate()
    if process.returncode:
        raise CannotRun(f"{what} cannot be run:\n{errors.decode(errors='replace')}")


def _python(code: Path, *words: str | Path) -> subprocess.Popen[bytes]:
    one = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, *map(str, words)],
        cwd=code,
        env=os.environ | one | {"PYTHONPATH": str(code), "CUDA_VISIBLE_DEVICES": ""},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


@contextmanager
def checked_out(commit: str, folder: Path) -> Iterator[Path]:
    """A temporary worktree of `commit`."""
    git = ["git", "-C", str(CHECKOUT), "worktree"]
    added = subprocess.run(
        [*git, "add", "--detach", str(folder), commit], capture_output=True, text=True, check=False
    )
    if added.returncode:
        raise CannotRun(f"{commit} cannot be checked out: {added.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run([*git, "remove", "--force", str(folder)], check=True, capture_output=True)


def compare(before: str, after: str, options: Sequence[str]) -> dict[str, list[str]]:
    """Case -> how `after` differs from `before`; no lines where it does not."""
    with (
        tempfile.TemporaryDirectory() as name,
        checked_out(before, Path(name) / "before") as old,
        checked_out(after, Path(name) / "after") as new,
    ):
        runs = []
        for code in (old, new):
            stores = Path(name) / f"stores-{code.name}"
            make_stores(code, stores)
            runs.append(Run(code, stores, options))
        first, second = (found["curves"] for found in run_all(runs, (before, after)))
    return {
        case: differences(first.get(case, {}), second.get(case, {})) for case in {**first, **second}
    }


def write() -> None:
    """Run this checkout and replace the curves that the tests compare with."""
    with tempfile.TemporaryDirectory() as name:
        stores = Path(name)
        make_stores(CHECKOUT, stores)
        runs = [Run(CHECKOUT, stores, ["--precision", precision]) for precision in PRECISIONS]
        found = run_all(runs, PRECISIONS)
    PLATFORM.write_text(json.dumps(found[0]["platform"], indent=1) + "\n")
    for case in found[0]["curves"]:
        curves = {
            precision: result["curves"][case]
            for precision, result in zip(PRECISIONS, found, strict=True)
        }
        (HERE / f"{case}.json").write_text(json.dumps(curves, indent=1) + "\n")
        print(HERE / f"{case}.json")


def main() -> int:
    """Compare or write; returns the exit code."""
    parser = argparse.ArgumentParser(description="Whether two commits train alike, bit for bit.")
    parser.add_argument("before", nargs="?", metavar="BEFORE")
    parser.add_argument("after", nargs="?", metavar="AFTER", default="HEAD")
    parser.add_argument("cases", nargs="*", metavar="CASE", help="recipes to run, or all")
    parser.add_argument("--precision", choices=PRECISIONS, default=PRECISIONS[0])
    parser.add_argument("--write", action="store_true", help="write the curves kept here")
    args = parser.parse_intermixed_args()
    if args.write:
        write()
        return 0
    if args.before is None:
        parser.error("expected a commit to compare with")
    try:
        found = compare(args.before, args.after, ["--precision", args.precision, *args.cases])
    except CannotRun as error:
        print(error, file=sys.stderr)
        return 2
    for case, lines in found.items():
        print(f"{case}: {'differs' if lines else 'equal'}")
        for line in lines:
            print(f"  {line}")
    return 1 if any(found.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
