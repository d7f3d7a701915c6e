"""The memory of fine-tuning: counted without values as with them, and printed."""

from __future__ import annotations

from typing import Any

import pytest

from voco_models.bench import finetune_memory
from voco_models.bench.finetune_memory import measure
from voco_models.networks.backbones import TINY_BACKBONE

GRID = (6, 64, 64)
LSTM_BYTES = 300_000
"""PyTorch's LSTM for processors keeps a workspace, which it does not without values."""
OPTIONS: list[dict[str, Any]] = [
    {"recompute": "off"},
    {"recompute": "blocks"},
    {"recompute": "calls", "images_per_call": 3},
]


@pytest.mark.parametrize("options", OPTIONS)
def test_counts_without_values_are_those_of_a_step(options: dict[str, Any]) -> None:
    counted = measure(batch=2, grid=GRID, backbone=TINY_BACKBONE, **options)
    computed = measure(batch=2, grid=GRID, backbone=TINY_BACKBONE, steps=2, **options)
    assert counted.seconds is None
    assert computed.seconds is not None
    assert counted.saved_bytes == pytest.approx(computed.saved_bytes, abs=LSTM_BYTES)
    assert counted.peak_bytes == pytest.approx(computed.peak_bytes, abs=LSTM_BYTES)
    assert counted.saved_bytes < counted.peak_bytes


def test_less_is_kept() -> None:
    off, blocks, calls = (
        measure(batch=2, grid=GRID, backbone=TINY_BACKBONE, **options) for options in OPTIONS
    )
    assert calls.saved_bytes < blocks.saved_bytes < off.saved_bytes
    assert max(calls.peak_bytes, blocks.peak_bytes) < off.peak_bytes


def test_a_table_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ["--slices", "4", "--side", "64", "--images-per-call", "2"]
    finetune_memory.main(["--backbone", TINY_BACKBONE, "--batch", "1", *sizes])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:]] == ["off", "blocks", "calls"]
    assert {line.count("|") for line in lines} == {7}
