"""Find what nothing needs any more under a root, and remove it when told to.

Garbage is: stores of an older algorithm version that no run pins, and stores that the user names,
unless a run pins them; chunks and records that no catalogue lists; temporary files of killed runs;
previews that no store and no ledger refers to; and runs beyond those to keep. Stores of another
format, of a newer version, and the private folder are left alone.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow.parquet as pq

from voco_data.errors import InputError, VocoError
from voco_data.maintenance import pins
from voco_data.maintenance.pins import Pin, pins_of, users
from voco_data.maintenance.removal import (
    Object,
    in_safe_order,
    listing,
    prune,
    remove,
    stale,
    waiting,
)
from voco_data.qc import ledger
from voco_data.storage import scratch_db
from voco_data.storage.base import Leases, Storage
from voco_data.storage.root import PREVIEWS_FOLDER, RUN_ID, RUNS_FOLDER, existing_root, store_names
from voco_data.storage.root import PRIVATE_FOLDER as PRIVATE
from voco_data.store import catalogue
from voco_data.store.keys import WRITE_ONCE
from voco_data.store.metadata import read_spec
from voco_data.store.spec import ALGORITHM_VERSION

log = logging.getLogger(__name__)

_PREVIEWS = """
CREATE TABLE previews (digest TEXT PRIMARY KEY, key TEXT, size INTEGER) WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True)
class Garbage:
    """One thing that nothing needs."""

    what: str
    """`store`, `leftovers`, `temporary`, `previews`, `pins` or `run`."""
    name: str
    """Where it lies below the root."""
    why: str
    objects: int
    bytes: int


@dataclass(frozen=True, slots=True)
class GcSummary:
    """What is garbage under a root, and whether it was removed."""

    root: str
    removed: bool
    bytes: int
    garbage: tuple[Garbage, ...]
    kept: tuple[str, ...]
    """Stores that are old or do not open, and why they stay, a line each."""

    def to_json(self) -> dict[str, object]:
        """As `voco store gc --json` prints it."""
        return asdict(self)


def gc(
    root: str | Path | Storage,
    *,
    stores: Sequence[str] = (),
    keep_runs: int | None = None,
    yes: bool = False,
    wait: float = 0.0,
) -> GcSummary:
    """List what nothing needs under `root`; with `yes`, remove it, under the locks of all stores.

    What is to go is listed in memory: at most 350 bytes an object, two objects a volume.
    `stores` are folder names of stores to remove although they are current; `keep_runs` is how
    many of the last preprocess runs stay (all). Raises InputError for a root or a store that is
    not there, and for a named store that a run uses; StoreBusy if a run writes to a store for
    longer than `wait` seconds.
    """
    home = existing_root(root)
    with ExitStack() as stack:
        previews = stack.enter_context(closing(_Previews(home)))
        names = store_names(home)
        if yes:
            locks = [home.lock(f".{name}.lock", wait_seconds=wait, repairs=False) for name in names]
            # Of all stores, whatever is removed: a run over any may show a preview again.
            leases = Leases([stack.enter_context(lock) for lock in locks])
            home = home.with_lease(leases, WRITE_ONCE)
        pinned = pins_of(home)
        doomed, kept = _judge(home, names, stores, pinned)
        pieces = [
            *_whole_stores(home, doomed),
            *_leftovers(home, [name for name in names if name not in doomed], previews),
            *_old_runs(home, keep_runs, previews),
            *previews.unused(),
            *_small_things(home, names, pinned),
        ]
        pieces = [piece for piece in pieces if piece.objects]
        if yes:
            for piece in pieces:
                remove(home, (key for key, _ in piece.objects))
                if piece.garbage.what in ("store", "run"):
                    prune(home, piece.garbage.name)
    found = tuple(piece.garbage for piece in pieces)
    if found and not yes:
        log.info("nothing was removed; --yes removes it")
    return GcSummary(str(home), yes, sum(item.bytes for item in found), found, tuple(kept))


@dataclass(frozen=True, slots=True)
class _Piece:
    """Garbage, and the objects that it is made of, as keys below the root."""

    garbage: Garbage
    objects: list[Object]

    @classmethod
    def of(cls, what: str, name: str, why: str, objects: list[Object]) -> _Piece:
        total = sum(size for _, size in objects)
        return cls(Garbage(what, name, why, len(objects), total), objects)


class _Previews:
    """All previews of a root, less those that turn out to be in use. On disk."""

    def __init__(self, root: Storage) -> None:
        # Before any store is looked at: a run that adds previews meanwhile holds a store's lock.
        self._table = scratch_db.open_scratch_db(_PREVIEWS)
        self._table.executemany(
            "INSERT OR IGNORE INTO previews VALUES (?, ?, ?)",
            (
                (key.rpartition("/")[2].removesuffix(".jpg"), key, size)
                for key, size in root.sizes(PREVIEWS_FOLDER)
                if key.endswith(".jpg")
            ),
        )

    def close(self) -> None:
        self._table.close()

    def in_use(self, digests: Iterable[str]) -> None:
        """Inputs whose previews stay."""
        self._table.executemany(
            "DELETE FROM previews WHERE digest = ?", ((digest,) for digest in digests)
        )

    def unused(self) -> Iterator[_Piece]:
        found = self._table.execute("SELECT key, size FROM previews ORDER BY key").fetchall()
        yield _Piece.of("previews", PREVIEWS_FOLDER, "no store and no ledger names them", found)


def _judge(
    root: Storage, names: Sequence[str], named: Sequence[str], pinned: list[Pin]
) -> tuple[dict[str, str], list[str]]:
    """Stores that go, with the reason; and remarks on those that stay although they are odd."""
    doomed: dict[str, str] = {}
    kept: list[str] = []
    for name in named:
        if name not in names:
            raise InputError(
                f"{root}: expected the folder name of a store under it, got {name!r}; "
                "voco store ls shows them"
            )
        if using := users(pinned, name):
            raise InputError(f"{root}: {name} is used by {_runs_of(using)}; it stays")
        doomed[name] = "named"
    for name in names:
        if name in doomed:
            continue
        storage = root / name
        if storage.size("zarr.json") is None and _is_hollow(storage):
            doomed[name] = "its making or removal was interrupted"
            continue
        try:
            version = read_spec(storage).algorithm_version
        except VocoError as error:
            kept.append(str(error))
            continue
        if version >= ALGORITHM_VERSION:
            continue
        if using := users(pinned, name):
            kept.append(f"{name}: of algorithm version {version}, used by {_runs_of(using)}")
        else:
            doomed[name] = (
                f"of algorithm version {version}, now {ALGORITHM_VERSION}; no run uses it"
            )
    return doomed, kept


def _is_hollow(store: Storage) -> bool:
    """Whether a folder has the metadata of arrays at most."""
    return all(key.endswith("zarr.json") for key, _ in store.sizes())


def _runs_of(using: list[Pin]) -> str:
    return ", ".join(f"{pin.run} ({pin.stage}, {pin.state})" for pin in using)


def _whole_stores(root: Storage, doomed: Mapping[str, str]) -> Iterator[_Piece]:
    for name, why in doomed.items():
        sizes = dict((root / name).sizes())
        objects = [(f"{name}/{key}", sizes[key]) for key in in_safe_order(sizes)]
        yield _Piece.of("store", name, why, objects)


def _leftovers(root: Storage, names: Sequence[str], previews: _Previews) -> Iterator[_Piece]:
    """Inside the stores that stay. Notes which previews they need."""
    for name in names:
        try:
            inside = listing(root / name)
            for batch in catalogue.batches(root / name, ["input_digest"]):
                previews.in_use(batch["input_digest"].to_pylist())
        except VocoError as error:
            raise VocoError(f"{error}; nothing was removed") from error
        previews.in_use(record.input_digest for record in waiting(root / name, inside))
        for what, why, found in (
            ("leftovers", "chunks and records that no catalogue lists", inside.leftovers),
            ("temporary", "of killed runs", inside.stale),
        ):
            objects = [(f"{name}/{key}", size) for key, size in found]
            yield _Piece.of(what, name, why, objects)


def _old_runs(root: Storage, keep: int | None, previews: _Previews) -> Iterator[_Piece]:
    """Runs beyond the last `keep`. Notes which previews the others show."""
    objects: dict[str, list[Object]] = {}
    for key, size in root.sizes(RUNS_FOLDER):
        name = key.split("/")[1]
        if RUN_ID.fullmatch(name):
            objects.setdefault(name, []).append((key, size))
    names = sorted(objects)
    old = [] if keep is None else names[: max(0, len(names) - keep)]
    for name in names:
        if name not in old:
            previews.in_use(_digests_of_run(root / RUNS_FOLDER / name))
    for name in old:
        why = f"beyond the last {keep}"
        yield _Piece.of("run", f"{RUNS_FOLDER}/{name}", why, objects[name])


def _digests_of_run(run: Storage) -> Iterator[str]:
    if run.size(ledger.KEY) is None:
        return
    with run.fetched(ledger.KEY) as path, pq.ParquetFile(path) as file:
        for batch in file.iter_batches(columns=["input_digest"]):
            yield from filter(None, batch["input_digest"].to_pylist())


def _small_things(root: Storage, names: Sequence[str], pinned: list[Pin]) -> Iterator[_Piece]:
    gone = [(pin.key, root.size(pin.key) or 0) for pin in pinned if pin.state == "gone"]
    yield _Piece.of("pins", pins.FOLDER, "their runs were removed", gone)
    torn = list(stale(root, outside=(PRIVATE, *names)))
    yield _Piece.of("temporary", ".", "of killed runs", torn)
