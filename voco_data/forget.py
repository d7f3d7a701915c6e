"""Erase a patient from everything under a root.

What is to go is found first, and written to a journal in the private folder. From then on every
step can be done again: a forget that was killed is finished by the next one.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

import xxhash

from voco_data import atomic, catalogue, forget_runs, preview, pseudonyms
from voco_data.erase import TEMPORARY, listing, remove
from voco_data.errors import InputError
from voco_data.forget_runs import RUNS, Names, Traces
from voco_data.freshness import KEY as FRESHNESS
from voco_data.freshness import Freshness
from voco_data.inspect import existing_root, store_names
from voco_data.left import still_named
from voco_data.pins import pins_of, users
from voco_data.place import Place
from voco_data.rows import series_key
from voco_data.store import read_spec
from voco_data.store_writer import StoreWriter, writing

log = logging.getLogger(__name__)

JOURNALS = "forgetting"
"""Folder of the journals, inside the private folder."""


@dataclass(slots=True)
class Journal:
    """Everything that a patient left under a root."""

    ids: list[str]
    """The patient's ids: those that stores and ledgers hold, and the archive's own."""
    traces: Traces = field(default_factory=Traces)
    stores: dict[str, int] = field(default_factory=dict)
    """Store to series of the patient."""
    runs: dict[str, int] = field(default_factory=dict)
    """Run id to rows of its ledger."""
    pairs: list[list[str]] = field(default_factory=list)
    """(kind, pseudonym) of the private map."""
    known: bool = False
    """Whether the patient was found by its id, not only in the names of files."""

    def to_json(self) -> bytes:
        """The journal as it is kept."""
        return json.dumps(asdict(self), indent=2).encode()

    @classmethod
    def from_json(cls, text: bytes) -> Journal:
        """As `to_json` gave it."""
        data = json.loads(text)
        return cls(**data | {"traces": Traces(**data["traces"])})

    def add(self, other: Journal) -> None:
        """Take up what an interrupted forget of the same patient had found."""
        self.known |= other.known
        self.ids = sorted({*self.ids, *other.ids})
        self.traces.add(other.traces)
        self.stores = _larger(self.stores, other.stores)
        self.runs = _larger(self.runs, other.runs)
        self.pairs = [list(pair) for pair in sorted({(k, p) for k, p in self.pairs + other.pairs})]


def _larger(ours: Mapping[str, int], theirs: Mapping[str, int]) -> dict[str, int]:
    names = sorted({*ours, *theirs})
    return {name: max(ours.get(name, 0), theirs.get(name, 0)) for name in names}


@dataclass(frozen=True, slots=True)
class ForgetSummary:
    """What a patient left under a root, and whether it was removed."""

    root: str
    removed: bool
    series: int
    """Over all stores."""
    stores: tuple[dict[str, object], ...]
    """Store, series and bytes of their volumes."""
    ledgers: tuple[dict[str, object], ...]
    """Run and rows of its ledger."""
    previews: int
    map_entries: int
    """Of the private map."""
    learned_by: tuple[str, ...]
    """Runs that trained on a store with this patient: their weights may remember."""
    left: tuple[str, ...]
    """Other files under the root that name the patient, such as those of training runs."""

    def to_json(self) -> dict[str, object]:
        """As `voco store forget --json` prints it."""
        return asdict(self)


def forget(
    root: str | Path | Place, patient: str, *, yes: bool = False, wait: float = 0.0
) -> ForgetSummary:
    """Say what `patient` left under `root`; with `yes`, remove it, under the locks of all stores.

    `patient` is the archive's own id or the pseudonym, letter by letter. Raises InputError for a
    root that is not there, a patient whom nothing names, and a store that cannot be written by
    this version; StoreBusy if a run writes to a store for longer than `wait` seconds.
    """
    home = existing_root(root)
    if not patient.strip():
        raise InputError("patient: expected an id or a pseudonym, got an empty text")
    with ExitStack() as stack:
        writers = _writers(home, stack, wait) if yes else []
        journal = _found(home, patient)
        for _, old in _journals(home):
            if set(old.ids) & set(journal.ids):
                journal.add(old)
        if not journal.known:
            raise InputError(
                f"{home}: no store, ledger or map names the patient; "
                "give the archive's own id or the pseudonym, letter by letter"
            )
        alone = _previews_of(home, journal)
        if yes:
            _write_journal(home, journal)
            _apply(home, journal, writers, alone)
        else:
            log.info("nothing was removed; --yes removes it")
        return _summary(home, journal, len(alone), removed=yes)


def _writers(home: Place, stack: ExitStack, wait: float) -> list[StoreWriter]:
    """Every store under its lock. What an interrupted run had committed is taken up."""
    found = []
    for name in store_names(home):
        try:
            spec = read_spec(home / name)
        except InputError as error:
            raise InputError(
                f"{error}; nothing was forgotten: such a store may hold the patient, "
                "remove it first (voco store gc --store)"
            ) from error
        found.append(stack.enter_context(writing(home, spec, wait_seconds=wait)))
    return found


def _found(home: Place, patient: str) -> Journal:
    """Look everywhere for a patient. Reads only."""
    ids, pairs = _named_in_map(home, patient)
    journal = Journal(ids, pairs=pairs)
    hidden_files = [pseudonym for kind, pseudonym in pairs if kind == "source"]
    studies: set[str] = set()
    lines: list[tuple[str, str, str]] = []
    for name in store_names(home):
        mine = list(_lines_of(home / name, ids))
        if mine:
            journal.stores[name] = len(mine)
        for line in mine:
            lines.append((line["patient_id"], line["series_uid"], line["source"]))
            studies.add(line["study_uid"])
            journal.traces.digests.append(line["input_digest"])
    for run in forget_runs.runs_of(home):
        rows = forget_runs.rows_in(home / RUNS / run, ids, hidden_files)
        if rows:
            journal.runs[run] = len(rows)
        for row in rows:
            if row["kind"] == "series":
                lines.append((row["patient_id"], row["series_uid"], row["source"]))
                journal.traces.digests += filter(None, [row["input_digest"]])
                if row["reason"]:
                    journal.traces.remarks.append([row["reason"], row["detail"]])
    journal.traces.add(
        Traces(
            series=[series for _, series, _ in lines],
            sources=[source for _, _, source in lines] + hidden_files,
            keys=[series_key(*line) for line in lines],
        )
    )
    journal.known = bool(lines) or any(kind == "patient" for kind, _ in pairs)
    journal.pairs = _pairs_of(home, journal, studies)
    return journal


def _named_in_map(home: Place, patient: str) -> tuple[list[str], list[list[str]]]:
    """All ids of the patient, and map entries that name it: its own, and files named after it."""
    ids = {patient}
    hide = pseudonyms.load(home)
    if hide is not None:
        with closing(hide):
            ids |= {
                original
                for kind, pseudonym, original in pseudonyms.read_map(home)
                if kind == "patient" and pseudonym == patient
            }
            ids |= {hide("patient", original) for original in tuple(ids)}
    names = Names(ids)
    pairs = [
        [kind, pseudonym]
        for kind, pseudonym, original in pseudonyms.read_map(home)
        if (kind == "patient" and pseudonym in ids)
        or (kind == "source" and names.in_path(original))
    ]
    return sorted(ids), pairs


def _lines_of(store: Place, ids: Collection[str]) -> Iterator[dict[str, str]]:
    """What a store holds of a patient: catalogue lines, and records that wait to be taken up."""
    names = ["patient_id", "study_uid", "series_uid", "source", "input_digest"]
    for batch in catalogue.batches(store, names):
        yield from (line for line in batch.to_pylist() if line["patient_id"] in ids)
    for record in listing(store).waiting:
        if record.patient_id in ids:
            yield {name: getattr(record, name) for name in names}


def _pairs_of(home: Place, journal: Journal, studies: Collection[str]) -> list[list[str]]:
    """Entries of the private map that belong to the patient and to nobody else."""
    columns = {"series": "series_uid", "study": "study_uid", "source": "source"}
    theirs = {
        "series": {*journal.traces.series},
        "study": {*studies},
        "source": {*journal.traces.sources},
    }
    for line in _others(home, journal.ids, [*columns.values()]):
        for kind, column in columns.items():
            theirs[kind].discard(line[column])
    pairs = {(kind, pseudonym) for kind, pseudonym in journal.pairs}
    pairs |= {
        (kind, pseudonym)
        for kind, pseudonym, _ in pseudonyms.read_map(home)
        if pseudonym in theirs.get(kind, ())
    }
    return [list(pair) for pair in sorted(pairs)]


def _others(home: Place, ids: Collection[str], columns: Sequence[str]) -> Iterator[dict[str, str]]:
    """Lines of all other patients in all stores."""
    for name in store_names(home):
        for batch in catalogue.batches(home / name, ["patient_id", *columns]):
            yield from (line for line in batch.to_pylist() if line["patient_id"] not in ids)


def _previews_of(home: Place, journal: Journal) -> list[str]:
    """Previews of the patient's scans that are there; other patients' equal scans keep theirs."""
    digests = {*journal.traces.digests}
    for line in _others(home, journal.ids, ["input_digest"]):
        digests.discard(line["input_digest"])
    keys = sorted(map(preview.key_of, digests))
    return [key for key in keys if home.size(key) is not None]


def _apply(
    home: Place, journal: Journal, writers: Sequence[StoreWriter], previews: Sequence[str]
) -> None:
    """Every step; each may have been done before. The map goes last: it finds the patient again."""
    for writer in writers:
        _forget_in_store(writer, journal)
    if home.size(FRESHNESS) is not None:
        with closing(Freshness(home)) as freshness:
            remarks = [(reason, detail) for reason, detail in journal.traces.remarks]
            freshness.forget(journal.traces.digests, remarks)
            freshness.save()
    remove(home, previews)
    for run in journal.runs:
        forget_runs.forget_in(home, run, journal.ids, journal.traces.sources, journal.traces.series)
    private = pseudonyms.folder_of(home)
    journals = private / JOURNALS
    stores = tuple(store_names(home))
    torn = [
        key
        for key, _ in home.sizes()
        if TEMPORARY.fullmatch(key.rpartition("/")[2])
        and not key.startswith((f"{pseudonyms.FOLDER}/", *stores))
    ]
    remove(home, torn)
    if (private / pseudonyms.MAP_FILE).exists():
        gone = {(kind, pseudonym) for kind, pseudonym in journal.pairs}
        pairs = pseudonyms.read_map(home)
        pseudonyms.write_map(home, (pair for pair in pairs if pair[:2] not in gone))
    for folder, torn_name in ((private, f".{pseudonyms.MAP_FILE}.*.tmp"), (journals, ".*.tmp")):
        for file in folder.glob(torn_name):
            file.unlink(missing_ok=True)
    for file, old in _journals(home):
        if set(old.ids) & set(journal.ids):
            file.unlink()
    for folder in (journals, private):
        with suppress(OSError):  # other journals, or the key
            folder.rmdir()


def _forget_in_store(writer: StoreWriter, journal: Journal) -> None:
    """Rows, records and chunks; and what no catalogue lists: nobody can say whose that is."""
    rows = [
        row
        for batch in catalogue.batches(writer.place, ["row", "patient_id"])
        for row, patient in zip(
            batch["row"].to_pylist(), batch["patient_id"].to_pylist(), strict=True
        )
        if patient in journal.ids
    ]
    writer.drop(rows, journal.traces.keys)
    writer.compact()
    inside = listing(writer.place)
    remove(writer.place, (key for key, _ in inside.leftovers))
    torn = (key for key, _ in writer.place.sizes() if TEMPORARY.fullmatch(key.rpartition("/")[2]))
    remove(writer.place, list(torn))


def _journals(home: Place) -> list[tuple[Path, Journal]]:
    """Those of forgets that did not end."""
    folder = pseudonyms.folder_of(home) / JOURNALS
    files = sorted(folder.glob("*.json"))
    return [(path, Journal.from_json(path.read_bytes())) for path in files]


def _write_journal(home: Place, journal: Journal) -> None:
    private = pseudonyms.folder_of(home)
    for folder in (private, private / JOURNALS):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    atomic.write_bytes(private / JOURNALS / _file_of(journal), journal.to_json(), mode=0o600)


def _file_of(journal: Journal) -> str:
    """Ids never become names of files."""
    return f"{xxhash.xxh3_128_hexdigest(json.dumps(journal.ids).encode())}.json"


def _summary(home: Place, journal: Journal, previews: int, *, removed: bool) -> ForgetSummary:
    pinned = pins_of(home)
    stores = []
    for name, series in journal.stores.items():
        z, y, x = read_spec(home / name).grid
        stores.append({"store": name, "series": series, "bytes": series * z * y * x})
    learned = {pin.run for name in journal.stores for pin in users(pinned, name)}
    return ForgetSummary(
        root=str(home),
        removed=removed,
        series=sum(journal.stores.values()),
        stores=tuple(stores),
        ledgers=tuple({"run": run, "rows": rows} for run, rows in journal.runs.items()),
        previews=previews,
        map_entries=len(journal.pairs),
        learned_by=tuple(sorted(learned)),
        left=tuple(still_named(home, journal.ids)),
    )
