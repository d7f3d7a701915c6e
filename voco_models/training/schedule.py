"""Learning rate and momentum as pure functions of the step: a resumed run needs no state."""

from __future__ import annotations

import math


def warmup_cosine(step: int, *, total: int, warmup: int, final_fraction: float = 0.0) -> float:
    """Factor of the peak learning rate at `step` (0-based), in (0, 1].

    Linear from 1/warmup to 1 over the first `warmup` steps, then half a cosine that reaches
    `final_fraction` at step `total`.
    """
    if step < warmup:
        return (step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, total - warmup))
    return final_fraction + (1 - final_fraction) * 0.5 * (1 + math.cos(math.pi * progress))


def cosine_between(start: float, end: float, progress: float) -> float:
    """Half a cosine from `start` at progress 0 to `end` at progress 1 (EMA momentum)."""
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * min(1.0, max(0.0, progress))))
