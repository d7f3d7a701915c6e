"""The bar of the index: files, and files a second."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from tqdm import tqdm


class Bar:
    """Counts files on stderr; silent unless `shown`."""

    def __init__(self, name: str, *, total: int | None = None, shown: bool) -> None:
        self._bar = tqdm(total=total, unit="files", desc=name, disable=not shown)

    def update(self) -> None:
        """One more file."""
        self._bar.update()

    def __enter__(self) -> Self:
        """The bar itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave the line as it is, so that the next bar has one of its own."""
        self._bar.close()
