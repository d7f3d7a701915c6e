"""The process of a candidate: it runs one measurement for each line of its standard input.

The repeats of all candidates are interleaved, so that other load on the machine affects all of them
equally. Each candidate waits in its own warm process until `bench.runner` asks for a repeat.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

RESULT = "result:"
"""Prefix of result lines on stdout. Libraries print other lines."""

TIMED_BATCHES = 96
"""Batches in one repeat."""
WARMUP_BATCHES = 32
"""Batches before them that are not timed: some were read ahead, and idle cores start slowly."""


def serve(measure: Callable[[], Mapping[str, Any]], *, warm_up: bool = True) -> None:
    """Measure once for each line of stdin, until it ends; before, once to warm up if `warm_up`."""
    if warm_up:
        measure()
    _print_result({})
    for _ in sys.stdin:
        _print_result(measure())


def time_batches(name: str, batches: Iterator[Tensor]) -> Callable[[], dict[str, float]]:
    """A measurement of an endless stream: seconds per batch, as float32 in reused memory."""
    floats: list[Tensor] = []

    def take(count: int) -> None:
        for _ in range(count):
            batch = next(batches)
            if batch.dtype != torch.float32:
                if not floats:
                    floats.append(torch.empty(batch.shape))
                floats[0].copy_(batch)

    def measure() -> dict[str, float]:
        take(WARMUP_BATCHES)
        start = time.perf_counter()
        take(TIMED_BATCHES)
        return {name: (time.perf_counter() - start) / TIMED_BATCHES}

    return measure


def _print_result(values: Mapping[str, Any]) -> None:
    print(RESULT, json.dumps(values), flush=True)
