"""One side of a measurement: a process that measures once whenever it is asked.

So that what else the machine does meets all alike, the repeats of all contestants are interleaved:
each waits in its own process, prepared and warm, until its turn comes.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

ANSWER = "answer:"
"""Begins a line of stdout that is meant for the one who asks; libraries print lines too."""

BATCHES = 96
"""Batches in one repeat."""
UNHEEDED = 32
"""Batches before them, not counted: some had been read ahead, and a core that slept is slow."""


def answer(measure: Callable[[], dict[str, float]]) -> None:
    """Measure once, unheeded, to be warm; then once for each line of stdin, until it ends."""
    measure()
    _say({})
    for _ in sys.stdin:
        _say(measure())


def seconds_a_batch(name: str, batches: Iterator[Tensor]) -> Callable[[], dict[str, float]]:
    """Takes batches from an endless stream, each to float32 in memory that is used again."""
    floats: list[Tensor] = []

    def take(count: int) -> None:
        for _ in range(count):
            batch = next(batches)
            if batch.dtype != torch.float32:
                if not floats:
                    floats.append(torch.empty(batch.shape))
                floats[0].copy_(batch)

    def measure() -> dict[str, float]:
        take(UNHEEDED)
        began = time.perf_counter()
        take(BATCHES)
        return {name: (time.perf_counter() - began) / BATCHES}

    return measure


def _say(found: dict[str, float]) -> None:
    print(ANSWER, json.dumps(found), flush=True)
