"""`voco bench`: what reaches the tables, and errors of one line; how flows are timed."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flows import flow_bench
from flows.command import main
from tests.support.organ_stores import organ_store
from voco_data.ingest.archive_masks import ArchiveMasks
from voco_models.bench import cost, localisers, pretrain


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

    def localisers_bench(*arguments: Any, **options: Any) -> dict[str, Any]:
        calls["localisers"] = options | {"arguments": arguments}
        return {"rows": [{"name": "fpn", "median": 4.5, "unit": "mm"}]}

    monkeypatch.setattr(localisers, "bench", localisers_bench)
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


def test_options_reach_the_localisers(
    seen: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = organ_store(tmp_path / "stores", 2, masked=1).path
    words = ["bench", "localisers", str(store), "--archive", str(tmp_path)]
    assert main(words) == 0
    assert "fpn" in capsys.readouterr().out
    found = seen["localisers"]
    path, masks = found.pop("arguments")
    assert path == store
    assert isinstance(masks, ArchiveMasks)
    assert found == {
        "recipe": "default", "changes": (), "split": None, "networks": (), "n_masks": 10,
        "steps": None, "seeds": 1, "margin_mm": 15.0, "out": Path("localisers"), "device": None,
    }  # fmt: skip
    more = ["--recipe", "tiny", "--set", "batch_size=2", "--split", "s.json", "--masks", "3"]
    more += ["--network", "fpn", "--network", "unet_3d", "--steps", "7", "--seeds", "2"]
    more += ["--margin", "5", "--out", "runs", "--device", "cpu", "--layout", "ratic"]
    assert main([*words, *more]) == 0
    found = seen["localisers"]
    del found["arguments"]
    assert found == {
        "recipe": "tiny", "changes": ("batch_size=2",), "split": Path("s.json"),
        "networks": ("fpn", "unet_3d"), "n_masks": 3, "steps": 7, "seeds": 2, "margin_mm": 5.0,
        "out": Path("runs"), "device": "cpu",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["localisers", "store"], "the following arguments are required: --archive"),
        (["localisers", "store", "--archive", "a", "--masks", "0"], "expected a whole number"),
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


def test_a_flow_is_compared_with_a_plain_call_in_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a clock that stands still outside of the calls. The first pair is a warm-up."""
    clock = {"now": 0.0}
    monkeypatch.setattr(flow_bench.time, "perf_counter", lambda: clock["now"])
    folders: list[tuple[str, Path]] = []

    def call(name: str, seconds: list[float]) -> Callable[[Path], None]:
        def run(out: Path) -> None:
            assert not out.exists()
            folders.append((name, out))
            clock["now"] += seconds.pop(0)

        return run

    plain, as_flow = call("plain", [9, 1, 2, 6]), call("flow", [9, 2, 4, 6.5])
    found = flow_bench.compare(plain, as_flow, tmp_path, repeats=3)
    assert found == {"plain_s": 2.0, "flow_s": 4.0, "overhead_s": 1.0}
    assert [name for name, _ in folders] == ["plain", "flow"] * 4
    assert len({out for _, out in folders}) == 8
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_bench_of_flows_times_real_stages(tmp_path: Path) -> None:
    """In a process of its own: a Prefect is embedded before it is imported."""
    code = "import json, flows.flow_bench as b; print(json.dumps(b.bench(patients=2, repeats=1)))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    found = json.loads(done.stdout.splitlines()[-1])
    assert [row["stage"] for row in found["rows"]] == ["preprocess", "pretrain"]
    assert all(row["plain_s"] > 0 and row["flow_s"] > 0 for row in found["rows"])
