"""`voco bench pretrain` and `voco bench cost`: what reaches them, and errors of one line."""

from __future__ import annotations

import json
from typing import Any

import pytest

from flows.command import main
from voco_models.bench import cost, pretrain


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Benchmarks that measure nothing. Returns the dictionary that will hold their arguments."""
    calls: dict[str, Any] = {}

    def pretrain_bench(recipe: Any, device: Any, *, quick: bool) -> dict[str, Any]:
        calls["pretrain"] = (recipe, device, quick)
        return {"rows": [{"name": "x", "median": 1.5, "unit": "ms a step"}], "ratios": {"x": {}}}

    def cost_bench(device: Any, *, quick: bool, seconds: float | None) -> dict[str, Any]:
        calls["cost"] = (device, quick, seconds)
        return {"rows": [{"name": "y", "median": None, "unit": "ms a step"}], "ratios": {}}

    monkeypatch.setattr(pretrain, "bench", pretrain_bench)
    monkeypatch.setattr(cost, "bench", cost_bench)
    return calls


def test_options_reach_the_benchmarks(
    seen: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["bench", "pretrain", "--recipe", "tiny", "--device", "cpu", "--quick", "--json"]
    assert main(words) == 0
    row = json.loads(capsys.readouterr().out.splitlines()[-1])["rows"][0]
    assert row == {"name": "x", "median": 1.5, "unit": "ms a step"}
    assert main(["bench", "cost", "--seconds", "90"]) == 0
    assert "y" in capsys.readouterr().out
    assert seen == {"pretrain": ("tiny", "cpu", True), "cost": (None, False, 90.0)}
    main(["bench", "pretrain"])
    assert seen["pretrain"] == (None, None, False)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["pretrain", "--device", "tpu"], "invalid choice: 'tpu'"),
        (["cost", "--seconds", "soon"], "expected seconds, 0 or more, got 'soon'"),
        (["cost", "--recipe", "tiny"], "unrecognized arguments: --recipe tiny"),
        (["speed"], "invalid choice: 'speed'"),
    ],
)
def test_bad_usage_is_one_line_and_exit_code_2(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["bench", *words])
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_an_unknown_recipe_is_one_line_and_exit_code_2(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["bench", "pretrain", "--recipe", "nope", "--device", "cpu"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "expected one of default, tiny" in line


def test_a_missing_gpu_is_one_line_and_exit_code_2(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert main(["bench", "cost", "--device", "cuda"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "no CUDA device is available" in line
