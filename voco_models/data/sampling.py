"""The order of items in batches, and the seeds of steps.

Both are functions of the run's seed, the epoch or step, the rank and the number of processes.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from voco_data.errors import InputError


def epoch_order(
    n: int, seed: int, epoch: int, rank: int = 0, world: int = 1, *, shuffle: bool = True
) -> npt.NDArray[np.int64]:
    """Indices, of `n` items, that this rank visits in `epoch`, in order; int64 (n // world,).

    Every rank gets the same number of items, and no item comes twice. Up to world - 1 items are
    left out, others in each epoch. Without `shuffle`, every epoch has the order of the items.
    Raises InputError if there are fewer items than ranks.
    """
    if n < world:
        raise InputError(f"expected at least one volume for each of {world} processes, got {n}")
    rng = np.random.default_rng(np.random.SeedSequence([seed, epoch]))
    order: npt.NDArray[np.int64] = rng.permutation(n) if shuffle else np.arange(n)
    return order[rank::world][: n // world]


def step_seed(seed: int, step: int, stream: int = 0) -> int:
    """A 63-bit seed for one stream of one step. Neighbouring steps have unrelated seeds."""
    mixed = np.random.SeedSequence([seed, step, stream]).generate_state(1, np.uint64)
    return int(mixed[0] >> np.uint64(1))


def raise_share(
    weights: npt.NDArray[np.float64], chosen: npt.NDArray[np.bool_], share: float
) -> npt.NDArray[np.float64]:
    """Weights (N,) in which the `chosen` ones have at least `share` of the sum.

    Weights of the others stay. Without chosen ones, or if they have the share, all stay.
    """
    before, others = weights[chosen].sum(), weights[~chosen].sum()
    if not before or before >= share * (before + others):
        return weights
    factor = share / (1 - share) * others / before
    return np.where(chosen, factor * weights, weights)


def weighted_epoch_order(
    weights: npt.NDArray[np.float64], seed: int, epoch: int, block: int
) -> npt.NDArray[np.int64]:
    """Indices of N items in the order of `epoch`, drawn by their `weights` (N,); int64 (N,).

    With c = N * weight / sum(weights), an item comes floor(c) or ceil(c) times, and c times in the
    mean over epochs (systematic sampling: Madow, Ann. Math. Stat. 20, 333, 1949). Its copies are
    spread over the epoch. Each `block` of successive indices, which is a batch of all ranks, has
    no item twice, unless an item comes more often than there are blocks.
    """
    n = len(weights)
    rng = np.random.default_rng(np.random.SeedSequence([seed, epoch]))
    shuffled = rng.permutation(n)
    bounds = np.cumsum(weights[shuffled]) * (n / weights.sum())
    bounds[-1] = n  # not a rounding error less
    ends = np.floor(bounds - (1.0 - rng.random())).astype(np.int64) + 1
    counts = np.diff(ends, prepend=0)
    copies = np.repeat(shuffled, counts)
    number = np.arange(n) - np.repeat(ends - counts, counts)
    places = (number + rng.random(n)) / np.repeat(counts, counts)
    order: npt.NDArray[np.int64] = copies[np.argsort(places, kind="stable")]
    _spread_repeats(order, block)
    return order


def _spread_repeats(order: npt.NDArray[np.int64], block: int) -> None:
    """Exchange items of blocks in place, so that no block has one twice, where this is possible."""
    n_blocks = len(order) // block  # the rest is left out of the epoch
    blocks = order[: n_blocks * block].reshape(n_blocks, block)
    members = [set(items) for items in blocks.tolist()]
    for b, items in enumerate(blocks):
        if len(members[b]) == block:
            continue
        first: set[int] = set()
        for position, item in enumerate(items.tolist()):
            if item not in first:
                first.add(item)
                continue
            for step in range(1, n_blocks):
                other = (b + step) % n_blocks
                if item in members[other]:
                    continue
                counts = blocks[other].tolist()
                place = next((i for i, theirs in enumerate(counts) if theirs not in members[b]), -1)
                if place < 0:
                    continue
                theirs = counts[place]
                items[position], blocks[other, place] = theirs, item
                members[b].add(theirs)
                first.add(theirs)
                members[other] = set(blocks[other].tolist())
                break


def count_earlier(items: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """How often each of the `items` (B,) comes before its place; int64 (B,)."""
    equal = items[:, None] == items[None, :]
    counts: npt.NDArray[np.int64] = np.tril(equal, -1).sum(axis=1)
    return counts


class BatchOrder:
    """The items of every batch, epoch after epoch: full batches of `size` out of `n` items.

    With `weights` (n,), items are drawn as by `weighted_epoch_order`; without, each comes once,
    in the order of the items without `shuffle`.
    Raises InputError if a rank cannot fill one batch.
    """

    def __init__(
        self,
        n: int,
        size: int,
        seed: int,
        rank: int,
        world: int,
        weights: npt.NDArray[np.float64] | None = None,
        *,
        shuffle: bool = True,
    ) -> None:
        if size < 1 or n // world < size:
            raise InputError(
                f"expected at least batch size x processes = {size * world} volumes "
                f"(batch size 1 or more), got {n}"
            )
        self.steps_per_epoch = n // world // size
        self._key = (n, seed)
        self._shard = (rank, world)
        self._size = size
        self._weights = weights
        self._epoch = 0
        """The epoch of `_epoch_order`."""
        self._shuffle = shuffle
        self._epoch_order = self._make_order(0)

    def indices_at(self, step: int) -> npt.NDArray[np.int64]:
        """Items of batch number `step`; int64 (size,)."""
        rank, world = self._shard
        return self._batch_of_all(step)[rank::world]

    def repeats_at(self, step: int) -> npt.NDArray[np.int64]:
        """How often each item of batch number `step` comes before in the batch of all ranks.

        int64 (size,). Only weights can put an item into a batch twice.
        """
        if self._weights is None:
            return np.zeros(self._size, np.int64)
        rank, world = self._shard
        return count_earlier(self._batch_of_all(step))[rank::world]

    def _batch_of_all(self, step: int) -> npt.NDArray[np.int64]:
        """Items of batch number `step` of all ranks; int64 (size * world,)."""
        epoch, batch = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            self._epoch_order = self._make_order(epoch)
            self._epoch = epoch
        block = self._size * self._shard[1]
        return self._epoch_order[batch * block : (batch + 1) * block]

    def _make_order(self, epoch: int) -> npt.NDArray[np.int64]:
        """Items of all ranks in `epoch`, in order; int64 (n,)."""
        n, seed = self._key
        if self._weights is None:
            return epoch_order(n, seed, epoch, shuffle=self._shuffle)
        return weighted_epoch_order(self._weights, seed, epoch, self._size * self._shard[1])
