"""The file of a split: read it, and bring it up to date with the patients of a store."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from voco_data.errors import InputError, VocoError
from voco_data.labels import join_labels, read_labels
from voco_data.selection.families import patients_sharing_volumes
from voco_data.selection.near_copies import find_near_copies
from voco_data.selection.split import N_FOLDS, SEED, TEST_SHARE, Split
from voco_data.storage import atomic, locks, read_text
from voco_data.store import Store

LOCK_S = 60.0
"""Time to wait for another process that appends to the file."""


@dataclass(frozen=True, slots=True)
class SplitSummary:
    """A split file after a call of `update_split`."""

    split: Path
    patients: int
    added: int
    test: int
    folds: tuple[int, ...]
    """Patients of each fold."""
    separated_families: int
    """Families in several groups, whose link was found after they had been placed."""
    near_copies: int | None
    """Pairs of patients who have the same scan in two reconstructions; None if nobody was added,
    because volumes are then not read."""
    digest: str

    def to_json(self) -> dict[str, object]:
        """The summary as plain values."""
        return asdict(self) | {"split": str(self.split), "folds": list(self.folds)}


def read_split(path: Path) -> Split:
    """Read a split file. Raises InputError if it cannot be read, or is no split."""
    try:
        text = read_text(path, "split")
    except InputError as error:
        raise InputError(
            f"{path}: cannot read the split; make it with voco split STORE --labels FILE --out "
            f"{path} ({error})"
        ) from error
    try:
        return Split.from_json(text)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def write_split(path: Path, split: Split) -> None:
    """Write a split file, atomically. Raises VocoError if it cannot be written."""
    try:
        atomic.write_text(path, split.to_json())
    except OSError as error:
        raise VocoError(f"{path}: cannot write the split ({error.strerror})") from error


def update_split(
    store: str | Path | Store,
    out: str | Path,
    labels: str | Path | None = None,
    *,
    test_share: float | None = None,
    n_folds: int | None = None,
    seed: int | None = None,
    pseudonymise: Callable[[str], str] | None = None,
) -> SplitSummary:
    """Make the split file `out`, or append the patients that it lacks. Nobody in it moves.

    Parameters
    ----------
    store : an open store, or its folder or URL.
    out : the split file. It is not written if nobody is added.
    labels : the table that names the patients to split. Its labels have no influence. All patients
        of the store if None.
    test_share : share of the patients in the test set; 0.2 for a new file if None.
    n_folds : folds of the other patients; 5 for a new file if None.
    seed : seed of the order in which patients are placed; 0 for a new file if None.
    pseudonymise : function from patient ids of the labels to those of the store.

    Raises
    ------
    InputError : if shares, folds or seed differ from those of the file, and as `Split.add`.
    StoreBusy : if another process appends to the file for more than a minute.
    """
    path = Path(out)
    opened = store if isinstance(store, Store) else Store.open(store)
    patients, aliases = split_patients(opened, labels, pseudonymise)
    given = {"test_share": test_share, "n_folds": n_folds, "seed": seed}
    new = Split(
        seed=SEED if seed is None else seed,
        test_share=TEST_SHARE if test_share is None else test_share,
        n_folds=N_FOLDS if n_folds is None else n_folds,
    )
    with locks.hold_lock(path.with_name(f".{path.name}.lock"), wait_seconds=LOCK_S):
        before = read_split(path) if path.exists() else new
        for name, value in given.items():
            if value not in (None, getattr(before, name)):
                raise InputError(
                    f"{path}: {name} of the split is {getattr(before, name)}, cannot change to "
                    f"{value}; leave it out, or give another file"
                )
        is_complete = set(patients) <= before.groups.keys()
        copies = None if is_complete else find_near_copies(opened)
        linked = [*content_links(opened), *(copies or ()), *aliases]
        split = before.add(patients, linked=linked, when=now())
        if split is not before:
            write_split(path, split)
    return SplitSummary(
        split=path,
        patients=len(split.groups),
        added=len(split.groups) - len(before.groups),
        test=len(split.test),
        folds=tuple(map(len, split.folds)),
        separated_families=split.count_separated_families(linked),
        near_copies=None if copies is None else len(copies),
        digest=split.digest,
    )


def split_patients(
    store: Store, labels: str | Path | None, pseudonymise: Callable[[str], str] | None = None
) -> tuple[list[str], list[tuple[str, str]]]:
    """The ids in `store` of all patients, or of those with `labels`; and pairs of one's ids.

    Raises InputError as `read_labels` and `join_labels`.
    """
    ids = sorted(set(store.catalogue["patient_id"].astype(str)))
    if labels is None:
        return ids, []
    joined = join_labels(read_labels(labels), ids, allow_unlabelled=True, pseudonymise=pseudonymise)
    return sorted(joined.label_ids), list(joined.label_ids.items())


def family_links(store: Store) -> list[tuple[str, str]]:
    """Pairs of patients of `store` that share a volume, or a near copy of it. Reads all volumes."""
    return [*content_links(store), *find_near_copies(store)]


def content_links(store: Store) -> list[tuple[str, str]]:
    """Pairs of patients of `store` that have volumes of equal content."""
    return patients_sharing_volumes(
        store.catalogue["patient_id"].astype(str), store.catalogue["content_digest"].astype(str)
    )


def now() -> str:
    """The time, UTC, ISO 8601."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
