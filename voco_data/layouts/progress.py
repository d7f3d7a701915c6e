"""The bar of the index: files, and files a second."""

from __future__ import annotations

from types import TracebackType
from typing import NoReturn, Self

from tqdm import tqdm


class Bar:
    """Counts files on stderr; silent unless `shown`, and until there is one to count."""

    def __init__(self, name: str, *, total: int | None = None, shown: bool) -> None:
        self._name = name
        self._total = total
        self._shown = shown
        self._bar: tqdm[NoReturn] | None = None

    def update(self) -> None:
        """One more file."""
        if not self._shown:
            return
        bar = self._bar
        if bar is None:
            bar = tqdm(total=self._total, unit="files", desc=self._name)
        bar.update()
        self._bar = bar

    def __enter__(self) -> Self:
        """The bar itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave the line, so that the next bar has one of its own; wipe it before an error."""
        if self._bar is not None:
            self._bar.leave = error is None
            self._bar.close()
