"""`make gpu`: failures and time limits of checks, the page, wheels; and the checks on the CPU."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from scripts import gpu_checks
from scripts.gpu import page, steps, wheels
from scripts.gpu_checks import Check
from tests.support.project import PROJECT
from voco_models.networks.teacher import Teacher
from voco_models.objectives.voco2d import Voco2d

CPU = torch.device("cpu")


def check(code: str, limit_s: float = 60) -> Check:
    return Check("x", ("-c", code), limit_s)


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Checks that take no time: one passes, one fails, one hangs, one measures."""
    bench = {"rows": [{"name": "r", "median": 2.5, "p90": 3.0, "note": ""}], "ratios": {"a": 2.0}}
    lines = {
        "passes": 'print(\'noise\'); print(\'{"status": "passed", "difference": 0.25}\')',
        "fails": 'print(\'{"status": "failed", "note": "0.5 | 1"}\')',
        "breaks": "raise ValueError('no room')",
        "says_nothing": "pass",
        "hangs": "import subprocess; subprocess.run(['sleep', '60'])",
        "bench_cost": f"import json; print(json.dumps({bench | {'machine': {}}}))",
    }
    found = [Check(n, ("-c", code), 1 if n == "hangs" else 60) for n, code in lines.items()]
    monkeypatch.setattr(gpu_checks, "CHECKS", (*found, Check("no_cpu", ("-c", "0"), 60, ())))


@pytest.mark.usefixtures("checks")
def test_one_failure_does_not_end_the_rest(tmp_path: Path) -> None:
    document = (PROJECT / "docs" / "gpu.md").read_text()
    assert gpu_checks.main(["--out", str(tmp_path), "--device", "cpu", "--write"]) == 1
    results = json.loads((tmp_path / "gpu.json").read_text())
    assert {c["name"]: c["status"] for c in results["checks"]} == {
        "passes": "passed",
        "fails": "failed",
        "breaks": "failed",
        "says_nothing": "failed",
        "hangs": "timed out",
        "bench_cost": "measured",
        "no_cpu": "skipped",
    }
    text = (tmp_path / "gpu.md").read_text()
    assert page.NOT_MEASURED in text
    assert "| difference 0.25 |" in text
    assert "0.5 \\| 1" in text
    assert "ValueError: no room" in text
    assert "| r | 2.5 | 3 |" in text
    # A trial on the CPU leaves the document as it is.
    assert (PROJECT / "docs" / "gpu.md").read_text() == document


@pytest.mark.usefixtures("checks")
def test_only_some_and_without_time(tmp_path: Path) -> None:
    words = ["--out", str(tmp_path), "--device", "cpu", "--only", "passes", "--seconds", "0"]
    assert gpu_checks.main(words) == 0
    (only,) = json.loads((tmp_path / "gpu.json").read_text())["checks"]
    assert (only["name"], only["status"]) == ("passes", "not run")


def test_the_page_is_filled_between_its_marks() -> None:
    results: dict[str, Any] = {
        "device": "cuda",
        "checks": [
            {
                "name": "bench_pretrain_T",
                "status": "measured",
                "seconds": 1234.5,
                "found": {
                    "rows": [
                        {"name": "a", "median": 1.25, "reserved_bytes": 2_500_000_000, "p90": None}
                    ],
                    "ratios": {"default": {"eager": 3.0, "store": None}},
                    "machine": {"gpu": "G", "tf32_matmul": False, "tf32_cudnn": True, "torch": "2"},
                },
            }
        ],
    }
    filled = page.fill("before\n<!-- measured -->\nold\n<!-- end -->\nafter\n", results)
    assert filled == page.fill(filled, results)
    assert "old" not in filled
    assert filled.startswith("before\n<!-- measured -->\ngpu G; torch 2; tf32_matmul False")
    assert filled.endswith("<!-- end -->\nafter\n")
    assert "| row | ms | reserved, GB |\n|---|---|---|\n| a | 1.25 | 2.5 |" in filled
    assert "| measured | 1,234 | default: eager 3 |" in filled


def test_wheels_of_what_is_there_are_left_out(tmp_path: Path) -> None:
    for name in ("torch-2.11.0-cp312-cp312-linux_x86_64.whl", "surely_absent-1.0-py3-none-any.whl"):
        (tmp_path / name).touch()
    assert [wheel.name for wheel in wheels.find_missing(tmp_path)] == [
        "surely_absent-1.0-py3-none-any.whl"
    ]


def test_an_empty_folder_of_wheels_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        gpu_checks.main(["--out", str(tmp_path), "--wheels", str(tmp_path)])
    assert stop.value.code == 2
    assert "expected a folder with wheels" in capsys.readouterr().err


def test_every_check_names_something_that_exists() -> None:
    for each in gpu_checks.CHECKS:
        if each.arguments[:2] == gpu_checks.STEPS:
            assert each.arguments[2] in steps.CHECKS
        elif each.is_pytest:
            assert (PROJECT / each.arguments[-1]).exists()
    named = {each.arguments[2] for each in gpu_checks.CHECKS}
    assert set(steps.CHECKS) <= named


def test_a_check_runs_in_a_process(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "scripts.gpu.steps", "no_blocking_copy", "cpu"],
        cwd=PROJECT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert json.loads(done.stdout.splitlines()[-1])["status"] == "skipped"


@pytest.mark.parametrize("name", ["losses_as_on_the_cpu", "losses_in_bf16", "resident_as_streamed"])
def test_checks_pass_on_the_cpu(name: str) -> None:
    assert steps.main(name, "cpu")["status"] == "passed"


def test_a_resumed_run_passes_and_one_with_another_teacher_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert steps.resumed_as_uninterrupted(CPU)["relative_difference"] == 0
    original, calls = Teacher.update, []

    def update(self: Teacher, student: Any, momentum: float) -> None:
        calls.append(momentum)
        original(self, student, momentum if len(calls) != 8 else 0.0)

    monkeypatch.setattr(Teacher, "update", update)
    with pytest.raises(steps.CheckFailed, match="relative difference"):
        steps.resumed_as_uninterrupted(CPU)


def test_other_losses_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    original, calls = Voco2d.measure, []

    def measure(self: Voco2d, *args: Any, **options: Any) -> Any:
        calls.append(1)
        found = original(self, *args, **options)
        return found | {"loss": found["loss"] * (1.01 if len(calls) > 3 else 1.0)}

    monkeypatch.setattr(Voco2d, "measure", measure)
    assert steps.main("losses_as_on_the_cpu", "cpu")["status"] == "failed"
