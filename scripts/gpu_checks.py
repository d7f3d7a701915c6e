"""Every check and benchmark of a GPU, in one call: `make gpu`.

    python scripts/gpu_checks.py --out FOLDER [--wheels FOLDER] [--device cpu] [--seconds 470]

Needs PyTorch, timm, NumPy, pandas and pyarrow; what else is missing is installed from the wheels
into FOLDER/site. Every check is a process of its own with a time limit. FOLDER/gpu.json has all
results and FOLDER/gpu.md is the page; `--write` also fills the tables of docs/gpu.md, on CUDA only.
The exit code is 1 if a check failed or took too long.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from scripts.gpu import page, wheels  # noqa: E402  found by the line above

DOCUMENT = ROOT / "docs" / "gpu.md"
SECONDS = 470.0
"""Time for everything."""
STEPS = ("-m", "scripts.gpu.steps")
COMMAND = ("-m", "flows.command")
NO_TEST_RAN = 5
"""Exit code of pytest."""


@dataclass(frozen=True, slots=True)
class Check:
    """A process, and how long it may take."""

    name: str
    arguments: tuple[str, ...]
    """Of Python. `DEVICE` stands for the device."""
    limit_s: float
    cpu_arguments: tuple[str, ...] | None = None
    """Of a trial on the CPU, if they differ."""
    is_pytest: bool = False


def _step(name: str, limit_s: float = 90) -> Check:
    return Check(name, (*STEPS, name, "DEVICE"), limit_s)


CHECKS = (
    _step("no_blocking_copy"),
    _step("losses_as_on_the_cpu"),
    _step("losses_in_bf16"),
    _step("resident_as_streamed"),
    _step("resumed_as_uninterrupted"),
    _step("compiled_as_eager", 180),
    Check(
        "two_processes_as_one",
        (
            "-m",
            "pytest",
            "-p",
            "no:cacheprovider",
            "tests/voco_models/test_distributed_step.py",
        ),
        120,
        is_pytest=True,
    ),
    Check(
        "bench_pretrain_T",
        (*COMMAND, "bench", "pretrain", "--device", "DEVICE", "--recipe", "default", "--json"),
        240,
        (*COMMAND, "bench", "pretrain", "--device", "cpu", "--recipe", "tiny", "--quick", "--json"),
    ),
    Check(
        "bench_cost",
        (*COMMAND, "bench", "cost", "--device", "DEVICE", "--quick", "--seconds", "90", "--json"),
        150,
        (*COMMAND, "bench", "cost", "--device", "cpu", "--quick", "--json"),
    ),
    Check(
        "bench_pretrain_S",
        (*COMMAND, "bench", "pretrain", "--device", "DEVICE", "--recipe", "default_s", "--json"),
        240,
        (),
    ),
)
"""In this order, as long as there is time. To add a check, add a line."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the checks and write the results. Returns the exit code."""
    args = _parse(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    site = args.out / "site"
    installed = [] if args.wheels is None else wheels.install(args.wheels, site)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (ROOT, site.resolve())))}
    device = args.device or _find_device(environment)
    stop = time.monotonic() + args.seconds
    results: dict[str, Any] = {"device": device, "installed": installed, "checks": []}
    for check in CHECKS:
        if args.only and check.name not in args.only:
            continue
        result = run(check, device, environment, stop - time.monotonic())
        results["checks"].append(result)
        print(f"{check.name}: {result['status']} {result.get('note', '')}", file=sys.stderr)
        (args.out / "gpu.json").write_text(json.dumps(results, indent=1))
    document = page.fill(DOCUMENT.read_text(), results)
    (args.out / "gpu.md").write_text(document)
    if args.write and device != "cpu":
        DOCUMENT.write_text(document)
    print(f"{args.out / 'gpu.json'}, {args.out / 'gpu.md'}")
    return int(any(r["status"] in ("failed", "timed out") for r in results["checks"]))


def run(check: Check, device: str, environment: dict[str, str], left_s: float) -> dict[str, Any]:
    """Run one check. Returns its status, seconds, and what its last line of stdout says."""
    words = check.arguments
    if device == "cpu" and check.cpu_arguments is not None:
        words = check.cpu_arguments
    if not words:
        return {"name": check.name, "status": "skipped", "note": "not measured on the CPU"}
    if left_s < 1:
        return {"name": check.name, "status": "not run", "note": "no time was left"}
    command = [sys.executable, *(device if word == "DEVICE" else word for word in words)]
    began = time.monotonic()
    done = run_limited(command, environment, min(check.limit_s, left_s))
    if done is None:
        seconds = time.monotonic() - began
        return {"name": check.name, "status": "timed out", "seconds": seconds}
    return {
        "name": check.name,
        "seconds": time.monotonic() - began,
        **read_result(done, is_pytest=check.is_pytest),
    }


def run_limited(
    command: Sequence[str], environment: dict[str, str], limit_s: float
) -> subprocess.CompletedProcess[str] | None:
    """Run a process in the project's folder; None if it, with its children, had to be ended."""
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            out, errors = process.communicate(timeout=limit_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            return None
    return subprocess.CompletedProcess(command, process.returncode, out, errors)


def read_result(done: subprocess.CompletedProcess[str], *, is_pytest: bool) -> dict[str, Any]:
    """Status and findings of a process that has ended."""
    lines = done.stdout.strip().splitlines() or [""]
    if is_pytest and done.returncode in (0, NO_TEST_RAN):
        return {"status": "skipped" if done.returncode else "passed", "note": lines[-1]}
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:] or ["no message"]
        return {"status": "failed", "note": f"exit code {done.returncode}: {last[0]}"}
    try:
        found: dict[str, Any] = json.loads(lines[-1])
    except json.JSONDecodeError:
        return {"status": "failed", "note": f"expected a line of JSON, got {lines[-1]!r}"}
    return {
        "status": found.pop("status", "measured"),
        "note": found.pop("note", ""),
        "found": found,
    }


def _find_device(environment: dict[str, str]) -> str:
    code = "import torch; print('cuda' if torch.cuda.is_available() else 'cpu')"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout.split()[-1]


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="All checks and benchmarks of a GPU.")
    add = parser.add_argument
    add("--out", type=Path, required=True, metavar="FOLDER", help="for gpu.json and gpu.md")
    add("--wheels", type=Path, metavar="FOLDER", help="wheels of what this Python lacks")
    add("--device", choices=("cpu", "cuda"), help="CUDA if there is one; the CPU is a trial")
    add("--seconds", type=float, default=SECONDS, metavar="N", help=f"in all ({SECONDS:.0f})")
    add("--only", action="append", choices=[c.name for c in CHECKS], help="this one; repeatable")
    add("--write", action="store_true", help="also fill docs/gpu.md, on CUDA")
    args = parser.parse_args(argv)
    if args.wheels is not None and not any(args.wheels.glob("*.whl")):
        parser.error(f"--wheels {args.wheels}: expected a folder with wheels; run make wheels")
    return args


if __name__ == "__main__":
    sys.exit(main())
