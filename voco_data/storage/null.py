"""A place that keeps nothing: where a probe of a run writes to."""
# ruff: noqa: ARG002  the methods are those of a place

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from voco_data.storage.base import Lease


@dataclass(frozen=True, slots=True)
class NullStorage:
    """A place that keeps nothing. See `voco_data.storage.base.Storage`."""

    name: str

    def __str__(self) -> str:
        """Not a path."""
        return f"nowhere ({self.name})"

    def __truediv__(self, folder: str) -> NullStorage:
        """Nothing below either."""
        return NullStorage(folder)

    def read(self, key: str) -> bytes:
        """There is nothing."""
        raise FileNotFoundError(key)

    def write(self, key: str, data: bytes | memoryview) -> None:
        """Let it go."""

    def remove(self, key: str) -> None:
        """It is not there."""

    def remove_folder(self, folder: str) -> None:
        """It is not there."""

    def touch(self, key: str) -> None:
        """It is not there."""

    def stamps(self, folder: str, keys: Iterable[str]) -> Iterator[str]:
        """There is nothing."""
        return ("" for _ in keys)

    def folders(self) -> Iterator[str]:
        """There is nothing."""
        return iter(())

    def cached(self, folder: str) -> NullStorage:
        """Nothing to keep."""
        return self

    def guarded(self, lease: Lease, write_once: tuple[str, ...] = ()) -> NullStorage:
        """Nothing to guard."""
        return self

    def committing(self) -> AbstractContextManager[None]:
        """Nothing can go wrong."""
        return nullcontext()

    def size(self, key: str) -> int | None:
        """There is nothing."""
        return None

    def sizes(self, folder: str = "") -> Iterator[tuple[str, int]]:
        """There is nothing."""
        return iter(())

    def fetched(self, key: str) -> AbstractContextManager[Path]:
        """There is nothing."""
        raise FileNotFoundError(key)

    def replacing(self, key: str) -> NoReturn:
        """A series is written in one piece."""
        raise NotImplementedError

    def exclusive(self, key: str, *, wait_seconds: float, tidies: bool = True) -> NoReturn:
        """Nobody writes here."""
        raise NotImplementedError

    def free_bytes(self) -> int | None:
        """Nothing says."""
        return None

    def local(self) -> Path | None:
        """No folder."""
        return None
