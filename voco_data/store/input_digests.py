"""Which inputs a store already holds: asked by workers that have just read a series."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import numpy.typing as npt
import xxhash

SeriesIdentity = tuple[str, str]
"""Patient and series id, as records keep them."""

_EMPTY = np.empty(0, "S32")


class InputDigests:
    """Input digests of one store, so that a moved, copied or renamed archive still hits.

    A digest alone is a hit, unless the record belongs to another series of the same archive:
    two patients with equal pixels each get a row of their own, in whatever order they come.
    32 bytes a series.
    """

    def __init__(self, keys: npt.NDArray[np.bytes_] = _EMPTY) -> None:
        self._keys = keys

    @classmethod
    def of(
        cls,
        held: Iterable[tuple[str, SeriesIdentity]],
        count: int,
        is_present: Callable[[SeriesIdentity], bool],
    ) -> InputDigests:
        """From the input digest and identity of `count` held series.

        `is_present` says whether a series of that identity is in the archive of this run.
        """
        keys = np.empty(count, "S32")
        for number, (digest, identity) in enumerate(held):
            keys[number] = _with_identity(digest, identity) if is_present(identity) else digest
        keys.sort()
        return cls(keys)

    def holds(self, digest: str, identity: SeriesIdentity) -> bool:
        """Whether the series `identity` with this input digest is in the store."""
        return self._has(digest) or self._has(_with_identity(digest, identity))

    def _has(self, key: str) -> bool:
        wanted = np.bytes_(key.encode())
        at = int(np.searchsorted(self._keys, wanted))
        return at < len(self._keys) and bool(self._keys[at] == wanted)


def _with_identity(digest: str, identity: SeriesIdentity) -> str:
    return xxhash.xxh3_128_hexdigest("\0".join((digest, *identity)).encode())
