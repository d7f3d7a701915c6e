"""`voco bench pretrain`: the steps are those of training, and ratios follow from the rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.voco_models.bench.test_loader_bench import plant
from voco_data.errors import InputError
from voco_data.store.spec import StoreSpec
from voco_models.bench import pretrain, pretrain_steps, volumes
from voco_models.bench.device import measure_product
from voco_models.bench.pretrain import Result, compute_ratios, make_rows, percentile
from voco_models.bench.pretrain_steps import KINDS, Candidate, bench_recipe
from voco_models.bench.steps import SyntheticBatches, TimedSteps, make_eager
from voco_models.stages.pretrain_monitors import count_crops
from voco_models.stages.pretrain_recipes import PRETRAIN_RECIPES

CPU = torch.device("cpu")


def repeat(*milliseconds: float, **values: object) -> Result:
    seconds = [value / 1e3 for value in milliseconds]
    times = {"seconds": seconds, "waits": [0.001] * len(seconds), "processor": seconds}
    return {**times, "crops": 100, "precision": "fp32", "resident_bytes": 7, **values}


RESULTS: dict[str, list[Result] | None] = {
    "synthetic": [repeat(10, 20, flops=2e9), repeat(30, flops=2e9)],
    "streamed": [repeat(25, 25, 33)],
    "resident": [repeat(16)],
    "bf16_cpu": [repeat(5)],
    "compiled_cpu": None,
    "eager_fp32_nchw": [repeat(50, flops=2e9)],
}


def test_ratios_of_rows_made_by_hand() -> None:
    assert compute_ratios(RESULTS) == pytest.approx(
        {
            "eager": 2.5,
            "bf16_eager": 10.0,
            "compiled_eager": None,
            "store": 0.8,
            "resident": 1.25,
            "p99_loader": 1.1,
        }
    )


def test_rows_have_rates_of_the_median_step() -> None:
    rows = make_rows("x", RESULTS, {"fp32": 1e12})
    measured = [kind for kind in KINDS if kind != "compiled_cpu"]
    assert [row["name"] for row in rows] == [f"x, {kind}" for kind in measured]
    first = rows[0]
    assert (first["median"], first["unit"], first["steps"]) == (20.0, "ms a step", 3)
    assert (first["p90"], first["p99"]) == (30.0, 30.0)
    assert first["crops_per_s"] == pytest.approx(5000)
    assert first["mfu"] == pytest.approx(2e9 / 0.02 / 1e12)
    assert first["wait_ms"] == pytest.approx(1)
    assert first["resident_bytes"] == 7
    assert len({tuple(row) for row in rows}) == 1  # a table


def test_percentiles_are_nearest_ranks() -> None:
    values = list(range(100, 0, -1))
    assert [percentile(values, p) for p in (50, 90, 99, 100)] == [50, 90, 99, 100]
    assert percentile([3.0], 99) == 3.0


def test_a_recipe_is_smaller_on_the_cpu_only_where_a_step_is_large() -> None:
    assert bench_recipe("tiny", CPU) == PRETRAIN_RECIPES["tiny"]
    smaller = bench_recipe("default", CPU)
    # 2 volumes of 11 crops with every fourth of 32 slices.
    assert count_crops(smaller, volumes.GRID) == 2 * 11 * 8
    assert bench_recipe("default", torch.device("cuda")) == PRETRAIN_RECIPES["default"]


def test_the_baseline_computes_the_same_losses_in_the_default_memory_format() -> None:
    recipe = PRETRAIN_RECIPES["tiny"]
    source = SyntheticBatches.make(2, volumes.GRID, CPU, batches=1)
    losses = []
    for is_eager in (False, True):
        timed = TimedSteps.begin(recipe, StoreSpec("bench", volumes.GRID), source, CPU)
        if is_eager:
            make_eager(timed.state)
        formats = [
            weight.is_contiguous(memory_format=torch.channels_last)
            for weight in timed.state.objective.parameters()
            if weight.ndim == 4 and weight.shape[1] > 1 and weight.shape[2] > 1
        ]
        assert formats
        assert not any(formats) if is_eager else all(formats)
        losses.append(timed.state.objective(next(source.batches_from(0)))["loss"].item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_synthetic_batches_repeat_with_other_seeds() -> None:
    stream = SyntheticBatches.make(2, (3, 4, 5), CPU, batches=2).batches_from(0)
    first, second, third = (next(stream) for _ in range(3))
    assert first.volumes.shape == (2, 3, 4, 5)
    assert torch.equal(first.volumes, third.volumes)
    assert not torch.equal(first.volumes, second.volumes)
    assert [batch.items.tolist() for batch in (first, second, third)] == [[0, 1], [2, 3], [0, 1]]
    assert len({batch.seed for batch in (first, second, third)}) == 3


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = np.stack([volumes.make_volume(number) for number in range(4)])
    return volumes.make_store(tmp_path_factory.mktemp("store"), made, "none")


@pytest.mark.parametrize("kind", ["synthetic", "streamed", "resident", "eager_fp32_nchw"])
def test_every_kind_takes_steps(kind: str, store: Path) -> None:
    candidate = Candidate(kind, "tiny", CPU, 1, store)
    found = candidate.measure()
    assert len(found["seconds"]) == len(found["waits"]) == len(found["processor"]) == 1
    assert found["crops"] == 4 * 11 * 4
    assert found["resident_bytes"] > 1e8
    assert found["flops"] > 4e9


def test_a_compiled_candidate_compiles_and_counts_nothing(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled = []
    monkeypatch.setattr(
        "voco_models.objectives.voco2d.Voco2d.compile_backbones",
        lambda self: compiled.append(self),
    )
    candidate = Candidate("compiled_cpu", "tiny", CPU, 1, store)
    assert len(compiled) == 1
    assert candidate.counts["first_step_s"] > 0
    assert "flops" not in candidate.counts


def test_bf16_is_measured_where_the_processor_has_it(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for has_bf16, precision in (True, "bf16"), (False, "fp32"):
        monkeypatch.setattr(pretrain_steps, "computes_in_bf16", lambda has=has_bf16: has)
        assert Candidate("bf16_cpu", "tiny", CPU, 1, store).counts["precision"] == precision


def test_the_bench_measures_every_kind(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With candidates that do not train."""
    plant(tmp_path, monkeypatch, made_up=MADE_UP)
    monkeypatch.setattr(pretrain, "STEPS", "made_up")
    monkeypatch.setattr(pretrain, "PRODUCT", "made_up")
    monkeypatch.setattr(pretrain, "STORE_VOLUMES", 2)
    monkeypatch.setattr(pretrain, "computes_in_bf16", lambda: True)
    found = pretrain.bench("tiny", "cpu", quick=True)
    assert set(found) == {"rows", "ratios", "machine"}
    assert [row["name"].split(", ")[1] for row in found["rows"]] == [
        kind for kind in KINDS if kind != "compiled_cpu"
    ]
    assert found["rows"][0]["mfu"] == pytest.approx(8e9 / 2 / 1e12)
    assert found["ratios"]["tiny"]["eager"] == 1.0
    assert {"commit", "gpu", "threads", "processor", "flop_counter"} <= set(found["machine"])


MADE_UP = """
import json, sys
def main(*words):
    print("result: {}", flush=True)
    found = {
        "flops_per_s": 1e12, "seconds": [2.0], "waits": [0.0], "processor": [2.0], "crops": 3,
        "precision": "fp32", "flops": 8e9, "resident_bytes": 1,
    }
    for _ in sys.stdin:
        print("result:", json.dumps(found), flush=True)
"""


def test_unknown_recipes_are_refused_before_anything_is_measured() -> None:
    with pytest.raises(InputError, match="expected one of"):
        pretrain.bench("nope", "cpu")


def test_a_matrix_product_has_a_rate() -> None:
    assert measure_product(CPU, torch.float32, side=64) > 1e6


def test_all_kinds_are_known_to_the_candidates() -> None:
    assert set(KINDS) == set(pretrain_steps.KINDS)
    assert pretrain.EAGER in KINDS
