"""Batches of an iterable that is read once, such as the rows of a table on disk."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar

T = TypeVar("T")


def batched(items: Iterable[T], size: int) -> Iterator[tuple[T, ...]]:
    """Tuples of `size` items; the last may be shorter.

    The same as `itertools.batched`, which Python has from 3.12 on. Items are read when their batch
    is asked for.
    """
    remaining = iter(items)
    while batch := tuple(islice(remaining, size)):
        yield batch
