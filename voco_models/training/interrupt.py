"""Ctrl-C and SIGTERM, taken between two steps, so that what is saved is a whole state."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interruption:
    """Within this context, the first SIGINT or SIGTERM only sets `arrived`; a second one acts.

    On leaving, the former handlers are back, and a signal that arrived is raised again for them:
    SIGINT becomes KeyboardInterrupt as usual. Outside the main thread nothing is intercepted,
    because Python delivers signals to the main thread only.
    """

    def __init__(self) -> None:
        self.arrived: int | None = None
        self._former: dict[int, Any] = {}

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                self._former[number] = signal.signal(number, self._take)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._restore()
        if self.arrived is not None and error is None:
            signal.raise_signal(self.arrived)

    def _take(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        self.arrived = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)
        self._former.clear()
