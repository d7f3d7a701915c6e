"""Where the time of a run went."""

from __future__ import annotations

import time


class Stopwatch:
    """Seconds since it was made, in named laps."""

    def __init__(self) -> None:
        self._began = self._last = time.monotonic()
        self.laps: dict[str, float] = {}
        """Seconds of each lap that has ended."""

    def lap(self, name: str) -> None:
        """End a lap that began with the one before."""
        now = time.monotonic()
        self.laps[name] = now - self._last
        self._last = now

    @property
    def total(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._began
