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


def step_seed(seed: int, step: int, rank: int = 0) -> int:
    """A 63-bit seed for one step of one rank. Neighbouring steps have unrelated seeds."""
    mixed = np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)
    return int(mixed[0] >> np.uint64(1))


class BatchOrder:
    """The items of every batch, epoch after epoch: full batches of `size` out of `n` items.

    Raises InputError if a rank cannot fill one batch.
    """

    def __init__(
        self, n: int, size: int, seed: int, rank: int, world: int, *, shuffle: bool = True
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
        self._epoch = 0
        """The epoch of `_epoch_order`."""
        self._shuffle = shuffle
        self._epoch_order = epoch_order(*self._key, 0, *self._shard, shuffle=shuffle)

    def indices_at(self, step: int) -> npt.NDArray[np.int64]:
        """Items of batch number `step`; int64 (size,)."""
        epoch, batch = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            self._epoch_order = epoch_order(*self._key, epoch, *self._shard, shuffle=self._shuffle)
            self._epoch = epoch
        return self._epoch_order[batch * self._size : (batch + 1) * self._size]
