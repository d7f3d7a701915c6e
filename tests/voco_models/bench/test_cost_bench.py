"""`voco bench cost`: one row a network and shape, and what is not installed says so."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest
import torch

from voco_models.bench import cost
from voco_models.bench.cost import Setting, compute_ratios, list_settings, make_row
from voco_models.bench.cost_steps import (
    Row,
    cost_recipe,
    count_without_computing,
    main,
    search_largest,
)
from voco_models.bench.runner import NOT_INSTALLED
from voco_models.networks.registry import create_backbone

CPU = torch.device("cpu")
SETTING = Setting(cost.REFERENCE, slices=32, batch=2, precision="fp32", repeats=3, steps=1)


def result(*seconds: float) -> cost.Result:
    counts = {"parameters": 5, "forward_flops": 10, "step_flops": 40, "saved_bytes": 80}
    return {"seconds": list(seconds), "processor": list(seconds), "resident_bytes": 9, **counts}


def test_a_row_of_results_made_by_hand() -> None:
    row = make_row(SETTING, [result(2.0), result(3.0), result(7.0)], largest=17)
    assert (row["median"], row["p90"], row["unit"]) == (3000.0, 7000.0, "ms a step")
    assert row["steps"] == 3
    # 2 volumes in 3 s
    assert row["volumes_per_s"] == pytest.approx(2 / 3)
    assert row["hours_3779"] == pytest.approx(3779 * 1.5 / 3600)
    assert row["hours_5910"] == pytest.approx(5910 * 1.5 / 3600)
    assert (row["parameters"], row["saved_bytes"], row["resident_bytes"]) == (5, 80, 9)
    assert row["largest_batch_24gb"] == 17


def test_a_row_that_was_not_measured_has_the_same_columns() -> None:
    measured, missing = make_row(SETTING, [result(1.0)], None), make_row(SETTING, None, None, "why")
    assert list(measured) == list(missing)
    assert missing["median"] is None
    assert missing["note"] == "why"


def test_ratios_are_over_the_reference_of_the_same_shape() -> None:
    def row(network: str, milliseconds: float | None, batch: int = 1) -> dict[str, object]:
        return {
            "name": f"{network} {batch}", "network": network, "slices": 32, "batch": batch,
            "precision": "fp32", "median": milliseconds, "processor_ms": milliseconds,
            "step_flops": 100 if network == "a" else 25, "saved_bytes": 3,
        }  # fmt: skip

    rows = [row(cost.REFERENCE, 10.0), row("a", 40.0), row("a", 80.0, batch=2), row("b", None)]
    assert compute_ratios(rows) == {
        "a 1": {"time": 4.0, "processor_time": 4.0, "flops": 4.0, "saved": 1.0}
    }


def test_every_network_has_the_same_shapes() -> None:
    for device in ("cpu", "cuda"):
        settings = list_settings(device, quick=False)
        by_network = {
            network: [(s.slices, s.batch, s.precision) for s in settings if s.network == network]
            for network in cost.NETWORKS
        }
        assert len(set(map(tuple, by_network.values()))) == 1
        assert {s.slices for s in settings} == {32, 64}
    assert {s.batch for s in list_settings("cuda", quick=False)} == {1, 2, 4}
    assert all(s.steps * s.repeats >= 50 for s in list_settings("cuda", quick=True))
    assert all(s.warmup >= 10 for s in list_settings("cuda", quick=True))


def test_a_batch_of_one_volume_has_no_inter_volume_loss() -> None:
    assert cost_recipe("test_byobnet", 1, "fp32").voco.loss.inter == "off"
    two = cost_recipe("test_byobnet", 2, "bf16")
    assert two.voco.loss.inter == "next"
    assert two.fit.amp
    assert not two.compile


def test_a_network_is_counted() -> None:
    row = Row("test_byobnet", slices=2, batch=2, precision="fp32", device=CPU, steps=1, projector=8)
    found = row.measure()
    backbone = create_backbone("test_byobnet")
    assert found["parameters"] == sum(weight.numel() for weight in backbone.parameters())
    assert len(found["seconds"]) == 1
    assert found["saved_bytes"] > 2 * 11 * 2 * 64 * 64 * 4  # more than the crops themselves
    # The same without computing.
    counts = count_without_computing(cost_recipe("test_byobnet", 2, "fp32", 8), slices=2)
    assert {name: found[name] for name in counts} == counts
    # Student forward and backward, and the teacher's forward; the stem needs no gradient of crops.
    assert 3.5 < found["step_flops"] / found["forward_flops"] < 4


def test_a_library_that_is_missing_is_not_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "einops", None)
    with pytest.raises(SystemExit) as stop:
        main("monai:resnet18", "32", "1", "fp32", "cpu", "1", "64")
    assert stop.value.code == NOT_INSTALLED


@pytest.mark.parametrize("largest", [0, 1, 3, 4, 5, 30, 31, 32])
def test_the_largest_batch_is_found(largest: int) -> None:
    tried = []

    def fits(batch: int) -> bool:
        tried.append(batch)
        return batch <= largest

    assert search_largest(fits, most=32) == largest
    assert len(tried) == len(set(tried)) <= 9
    assert max(tried) <= 32


@pytest.mark.slow
def test_rows_that_there_is_no_time_for_say_so() -> None:
    found = cost.bench("cpu", quick=True, seconds=0)
    assert {row["note"] for row in found["rows"]} == {"not measured: out of time"}
    assert {row["median"] for row in found["rows"]} == {None}
    assert all(row["step_flops"] > 3 * row["forward_flops"] > 0 for row in found["rows"])
    assert found["ratios"] == {}
    assert len(found["caveats"]) == len(cost.CAVEATS)
    assert found["machine"]["gpu"] == "not measured on a GPU"


def test_a_row_that_does_not_fit_in_memory_is_not_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "free_bytes", lambda device: 12e9)
    small, large = replace(SETTING, slices=32), replace(SETTING, slices=64)
    peaks = {cost.REFERENCE: 0.2e9}  # bytes a slice: 6.4 GB for 32 slices
    assert cost.find_obstacle(small, CPU, peaks, None) == ""
    assert cost.find_obstacle(large, CPU, peaks, None) == (
        "not measured: needs about 13 GB of free memory"
    )
    assert cost.find_obstacle(large, torch.device("cuda"), peaks, None) == ""
