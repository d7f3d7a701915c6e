"""List the garbage under a root, which is what nothing needs any more, and remove it.

Garbage is: stores of an older algorithm version that no run pins; stores that the user names,
unless a run pins them; chunks and records that no catalogue lists; temporary files of killed runs;
previews that no store and no ledger refers to; and runs beyond those to keep. Stores of another
format or of a newer version, and the private folder, are kept.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from pathlib import Path

from voco_data.errors import InputError, StoreCorrupt, VocoError
from voco_data.maintenance.pins import Pin, pins_of_store, read_pins
from voco_data.maintenance.removal import (
    Object,
    remove_empty_folders,
    remove_objects,
    scan_store,
    sort_for_removal,
    stale_temporaries,
    uncatalogued_records,
)
from voco_data.qc import ledger, preview
from voco_data.storage import (
    PINS_FOLDER,
    PREVIEWS_FOLDER,
    PRIVATE_FOLDER,
    RUN_ID,
    RUNS_FOLDER,
    CombinedLease,
    Storage,
    existing_root,
    parquet,
    scratch_db,
    store_names,
)
from voco_data.store import (
    ALGORITHM_VERSION,
    GROUP_METADATA,
    METADATA,
    WRITE_ONCE,
    catalogue,
    lock_key,
    read_spec,
)

log = logging.getLogger(__name__)

_PREVIEWS = """
CREATE TABLE previews (digest TEXT PRIMARY KEY, key TEXT, size INTEGER) WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True)
class Garbage:
    """A store, a run, or a group of objects that nothing needs."""

    kind: str
    """`store`, `leftovers`, `temporary`, `previews`, `pins` or `run`."""
    name: str
    """Path below the root."""
    reason: str
    objects: int
    """Number of objects."""
    bytes: int
    """Size of all objects."""

    def to_json(self) -> dict[str, object]:
        """As `voco store gc --json` prints it."""
        return {
            "what": self.kind,
            "name": self.name,
            "why": self.reason,
            "objects": self.objects,
            "bytes": self.bytes,
        }


@dataclass(frozen=True, slots=True)
class GcSummary:
    """The garbage under a root, and whether it was removed."""

    root: str
    removed: bool
    bytes: int
    garbage: tuple[Garbage, ...]
    kept: tuple[str, ...]
    """One line for each store that is old or does not open: why it stays."""

    def to_json(self) -> dict[str, object]:
        """As `voco store gc --json` prints it."""
        return asdict(self) | {"garbage": [item.to_json() for item in self.garbage]}


def collect_garbage(
    root: str | Path | Storage,
    *,
    stores: Sequence[str] = (),
    keep_runs: int | None = None,
    yes: bool = False,
    wait: float = 0.0,
) -> GcSummary:
    """List the garbage under `root`; with `yes`, remove it, under the locks of all stores.

    `stores` are folder names of current stores to remove as well; `keep_runs` is how many of the
    last preprocess runs stay (None: all). The list is in memory: at most 350 bytes an object, two
    objects a volume. Raises InputError for a root or a store that is not there, and for a named
    store that a run uses; StoreBusy if a run writes to a store for longer than `wait` seconds.
    """
    root_storage = existing_root(root)
    with ExitStack() as stack:
        previews = stack.enter_context(closing(_UnusedPreviews(root_storage)))
        names = store_names(root_storage)
        if yes:
            locks = [
                root_storage.lock(lock_key(name), wait_seconds=wait, repairs=False)
                for name in names
            ]
            # The locks of all stores: a run over any of them may refer to a preview again.
            leases = CombinedLease([stack.enter_context(lock) for lock in locks])
            root_storage = root_storage.with_lease(leases, WRITE_ONCE)
        pins = read_pins(root_storage)
        removable, kept = _choose_stores(root_storage, names, stores, pins)
        groups = [
            *_list_stores(root_storage, removable),
            *_list_leftovers(
                root_storage, [name for name in names if name not in removable], previews
            ),
            *_list_old_runs(root_storage, keep_runs, previews),
            *previews.list_unused(),
            *_list_dead_pins(root_storage, pins),
            *_list_temporaries(root_storage, names),
        ]
        groups = [group for group in groups if group.objects]
        if yes:
            for group in groups:
                remove_objects(root_storage, (key for key, _ in group.objects))
                if group.garbage.kind in ("store", "run"):
                    remove_empty_folders(root_storage, group.garbage.name)
    garbage = tuple(group.garbage for group in groups)
    if garbage and not yes:
        log.info("nothing was removed; --yes removes it")
    return GcSummary(
        root=str(root_storage),
        removed=yes,
        bytes=sum(item.bytes for item in garbage),
        garbage=garbage,
        kept=tuple(kept),
    )


@dataclass(frozen=True, slots=True)
class _Group:
    """A line of the list of garbage, with its objects by their keys below the root."""

    garbage: Garbage
    objects: list[Object]

    @classmethod
    def make(cls, kind: str, name: str, reason: str, objects: list[Object]) -> _Group:
        total = sum(size for _, size in objects)
        return cls(Garbage(kind, name, reason, len(objects), total), objects)


class _UnusedPreviews:
    """All previews of a root except those that were marked as used. A table on disk."""

    def __init__(self, root: Storage) -> None:
        # Previews are listed before any store is locked, so those that a run adds later are kept.
        self._table = scratch_db.open_scratch_db(_PREVIEWS)
        self._table.executemany(
            "INSERT OR IGNORE INTO previews VALUES (?, ?, ?)",
            (
                (digest, key, size)
                for key, size in root.list_objects(PREVIEWS_FOLDER)
                if (digest := preview.digest_of(key)) is not None
            ),
        )

    def close(self) -> None:
        self._table.close()

    def mark_used(self, digests: Iterable[str]) -> None:
        """Keep the previews of these input digests."""
        self._table.executemany(
            "DELETE FROM previews WHERE digest = ?", ((digest,) for digest in digests)
        )

    def keep_all(self) -> None:
        """Keep all previews: what names them cannot be read."""
        self._table.execute("DELETE FROM previews")

    def list_unused(self) -> Iterator[_Group]:
        objects = self._table.execute("SELECT key, size FROM previews ORDER BY key").fetchall()
        yield _Group.make("previews", PREVIEWS_FOLDER, "no store and no ledger names them", objects)


def _choose_stores(
    root: Storage, names: Sequence[str], requested: Sequence[str], pins: list[Pin]
) -> tuple[dict[str, str], list[str]]:
    """Stores to remove, each with the reason; and a line on each old or broken store that stays."""
    removable: dict[str, str] = {}
    kept: list[str] = []
    for name in requested:
        if name not in names:
            raise InputError(
                f"{root}: expected the folder name of a store under it, got {name!r}; "
                "voco store ls shows them"
            )
        if store_pins := pins_of_store(pins, name):
            raise InputError(f"{root}: {name} is used by {_describe_runs(store_pins)}; it stays")
        removable[name] = "named"
    for name in names:
        if name in removable:
            continue
        storage = root / name
        if storage.size(GROUP_METADATA) is None and _has_metadata_only(storage):
            removable[name] = "its making or removal was interrupted"
            continue
        try:
            version = read_spec(storage).algorithm_version
        except VocoError as error:
            kept.append(str(error))
            continue
        if version >= ALGORITHM_VERSION:
            continue
        if store_pins := pins_of_store(pins, name):
            kept.append(
                f"{name}: of algorithm version {version}, used by {_describe_runs(store_pins)}"
            )
        else:
            removable[name] = (
                f"of algorithm version {version}, now {ALGORITHM_VERSION}; no run uses it"
            )
    return removable, kept


def _has_metadata_only(store: Storage) -> bool:
    """Whether a folder is empty or holds only metadata of arrays."""
    return all(key.endswith(METADATA) for key, _ in store.list_objects())


def _describe_runs(pins: list[Pin]) -> str:
    return ", ".join(f"{pin.run} ({pin.stage}, {pin.state})" for pin in pins)


def _list_stores(root: Storage, removable: Mapping[str, str]) -> Iterator[_Group]:
    for name, reason in removable.items():
        sizes = dict((root / name).list_objects())
        objects = [(f"{name}/{key}", sizes[key]) for key in sort_for_removal(sizes)]
        yield _Group.make("store", name, reason, objects)


def _list_leftovers(
    root: Storage, names: Sequence[str], previews: _UnusedPreviews
) -> Iterator[_Group]:
    """Garbage inside the stores that stay. Marks the previews of their series as used."""
    for name in names:
        try:
            scan = scan_store(root / name)
            for batch in catalogue.iter_batches(root / name, ["input_digest"]):
                previews.mark_used(batch["input_digest"].to_pylist())
        except VocoError as error:
            raise VocoError(f"{error}; nothing was removed") from error
        committed = uncatalogued_records(root / name, scan)
        previews.mark_used(record.input_digest for record in committed)
        for kind, reason, objects_in_store in (
            ("leftovers", "chunks and records that no catalogue lists", scan.leftovers),
            ("temporary", "of killed runs", scan.stale),
        ):
            objects = [(f"{name}/{key}", size) for key, size in objects_in_store]
            yield _Group.make(kind, name, reason, objects)


def _list_old_runs(
    root: Storage, n_kept: int | None, previews: _UnusedPreviews
) -> Iterator[_Group]:
    """Preprocess runs beyond the last `n_kept`. Marks the previews of the others as used."""
    objects: dict[str, list[Object]] = {}
    for key, size in root.list_objects(RUNS_FOLDER):
        name = key.split("/")[1]
        if RUN_ID.fullmatch(name):
            objects.setdefault(name, []).append((key, size))
    names = sorted(objects)
    old = [] if n_kept is None else names[: max(0, len(names) - n_kept)]
    for name in names:
        if name not in old:
            try:
                previews.mark_used(_input_digests_of_run(root / RUNS_FOLDER / name))
            except StoreCorrupt as error:
                log.warning("%s; so no preview is removed", error)
                previews.keep_all()
    for name in old:
        reason = f"beyond the last {n_kept}"
        yield _Group.make("run", f"{RUNS_FOLDER}/{name}", reason, objects[name])


def _input_digests_of_run(run: Storage) -> Iterator[str]:
    for (digest,) in parquet.iter_rows(run, ledger.KEY, ["input_digest"]):
        if digest:
            yield digest


def _list_dead_pins(root: Storage, pins: list[Pin]) -> Iterator[_Group]:
    objects = [(pin.key, root.size(pin.key) or 0) for pin in pins if pin.state == "gone"]
    yield _Group.make("pins", PINS_FOLDER, "their runs were removed", objects)


def _list_temporaries(root: Storage, names: Sequence[str]) -> Iterator[_Group]:
    """Temporary files outside the stores, which are scanned one by one, and the private folder."""
    objects = list(stale_temporaries(root, outside=(PRIVATE_FOLDER, *names)))
    yield _Group.make("temporary", ".", "of killed runs", objects)
