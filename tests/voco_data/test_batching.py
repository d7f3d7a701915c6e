"""Batches are read when they are asked for, and lose nothing."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from voco_data.batching import batched


@pytest.mark.parametrize("count", [0, 1, 3, 4, 6, 7])
def test_every_item_is_in_one_batch_in_order(count: int) -> None:
    batches = list(batched(iter(range(count)), 3))
    assert [item for batch in batches for item in batch] == list(range(count))
    assert all(len(batch) == 3 for batch in batches[:-1])
    assert all(batches)


def test_a_batch_is_read_when_it_is_asked_for() -> None:
    read: list[int] = []

    def items() -> Iterator[int]:
        for item in range(10):
            read.append(item)
            yield item

    batches = batched(items(), 2)
    assert read == []
    assert next(batches) == (0, 1)
    assert read == [0, 1]
