"""What the catalogue of a store says of its series together, without any of their ids.

Values that records take from a closed list are counted, and all others are `other`: they may be
forged, or a text of the user's.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from voco_data.errors import StoreBusy
from voco_data.layouts import layout_choices
from voco_data.storage import ReadableStorage
from voco_data.store import CATALOGUE, catalogue, read_spec

OTHER: Final = "other"
"""A value of a record that is not in the closed list of its field."""
BOX_METHODS: Final = ("profile", "body", "whole", "mask", "projection", "given")
ID_MODES: Final = ("kept", "pseudonym")

_TRIES: Final = 3
"""Readings of the catalogue, as a run may replace it meanwhile."""
_BOX: Final = tuple(f"box_{axis}_{end}_mm" for axis in "zyx" for end in ("low", "high"))
_READ: Final = (
    "patient_id",
    "layout",
    "ids",
    "box_method",
    "input_digest",
    "chunk_checksum",
    *_BOX,
)


@dataclass(frozen=True, slots=True)
class StoreFacts:
    """What a catalogue says of its series together."""

    patients: frozenset[str]
    """Ids. They are joined with labels and counted, and never written."""
    n_series: int
    layouts: dict[str, int]
    ids: dict[str, int]
    box_methods: dict[str, int]
    spacing_mm: npt.NDArray[np.float64]
    """(N, 3): spacing of the stored voxels along z, y, x."""
    inputs_sha256: str
    """SHA-256 over the sorted input digests: the same scans have the same."""
    volumes_sha256: str
    """SHA-256 over the sorted checksums of the volumes."""
    catalogue_sha256: str | None
    """Of the file; None if there is none."""
    catalogue_bytes: int


def read_facts(storage: ReadableStorage) -> StoreFacts:
    """The facts of a store's catalogue.

    Raises StoreCorrupt if it cannot be read, StoreBusy if runs replace it again and again.
    """
    for _ in range(_TRIES):
        identity = _catalogue_identity(storage)
        facts = _read_lines(storage, identity)
        if _catalogue_identity(storage) == identity:
            return facts
    raise StoreBusy(f"{storage}: a run is writing to it; write the card when the run has ended")


def _catalogue_identity(storage: ReadableStorage) -> tuple[str | None, int]:
    """SHA-256 and size in bytes of the catalogue's file; None and 0 if there is none."""
    try:
        with storage.as_file(CATALOGUE) as path, path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest(), file.tell()
    except FileNotFoundError:
        return None, 0


def _read_lines(storage: ReadableStorage, identity: tuple[str | None, int]) -> StoreFacts:
    patients: set[str] = set()
    counts: dict[str, Counter[str]] = {name: Counter() for name in ("layout", "ids", "box_method")}
    digests: dict[str, list[str]] = {"input_digest": [], "chunk_checksum": []}
    extents = []
    for batch in catalogue.iter_batches(storage, _READ):
        patients.update(batch["patient_id"].to_pylist())
        for name, counter in counts.items():
            counter.update(batch[name].to_pylist())
        for name, values in digests.items():
            values += batch[name].to_pylist()
        box = np.stack([batch[name].to_numpy() for name in _BOX], axis=1)
        extents.append(box[:, 1::2] - box[:, ::2])
    grid = np.array(read_spec(storage).grid, np.float64)
    extent_mm = np.concatenate([np.empty((0, 3)), *extents])
    # The maker of a given box is a text of the user's.
    methods = Counter[str]()
    for method, count in counts["box_method"].items():
        methods[method.partition(":")[0]] += count
    sha256, size = identity
    return StoreFacts(
        patients=frozenset(patients),
        n_series=len(digests["chunk_checksum"]),
        layouts=_count_known(counts["layout"], layout_choices()),
        ids=_count_known(counts["ids"], ID_MODES),
        box_methods=_count_known(methods, BOX_METHODS),
        spacing_mm=extent_mm / grid,
        inputs_sha256=_digest(digests["input_digest"]),
        volumes_sha256=_digest(digests["chunk_checksum"]),
        catalogue_sha256=sha256,
        catalogue_bytes=size,
    )


def _count_known(counts: Mapping[str, int], known: Sequence[str]) -> dict[str, int]:
    """Counts by the names in `known`; all others together are `other`."""
    found = Counter[str]()
    for name, count in counts.items():
        found[name if name in known else OTHER] += count
    return dict(sorted(found.items()))


def _digest(values: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(sorted(values)).encode()).hexdigest()
