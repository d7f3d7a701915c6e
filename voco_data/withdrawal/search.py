"""Find what names a patient in folders of training runs and in split files. Nothing is written.

Stores and preprocess runs under a root are the matter of `voco_data.erasure`: a root inside such a
folder, as `voco predict` makes, is named, and its own files are left out.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from voco_data.errors import InputError
from voco_data.selection import SeenPatients
from voco_data.storage import (
    ARCHIVES,
    PREVIEWS_FOLDER,
    PRIVATE_FOLDER,
    RUN_DESCRIPTION,
    RUN_ID,
    SEEN_FILES,
    LocalStorage,
    atomic,
    store_names,
)
from voco_data.withdrawal import documents, tables, weight_files
from voco_data.withdrawal.learnt import Evidence
from voco_data.withdrawal.names import PatientNames

PATIENTS = "patients.json"
ROWS, ENTRIES, IDS = "rows", "entries", "ids in weights"
REWRITTEN = (ROWS, ENTRIES, IDS)
PAGE, REPORT_FILE, CAPTURE, CACHE = "page", "structured report", "captured step", "cached features"
CACHE_DESCRIPTION = "features.json"
"""File of a folder of cached features: see `voco_models.bench.head_features`."""

COMMANDS = {
    "report.html": "voco evaluate RUN",
    "comparison.html": "voco evaluate RUN --against RUN2",
    "explanation.html": "voco explain RUN STORE --out OUT",
    "index.html": "voco predict RUN SOURCE --out OUT",
}
"""Page to the command that makes it again."""
OTHER_COMMAND = "the command that wrote it"
_WEIGHTS = (*weight_files.CHECKPOINTS, weight_files.SAFETENSORS)
_SEARCHED_BYTES = 64 * 2**20
"""Files without a known form are searched up to this size."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What names the patient in one file, or one folder of cached features."""

    path: str
    kind: str
    count: int
    """Rows, entries or ids; 1 for what is removed as a whole."""
    again: str = ""
    """For a page that several patients shared: the command that makes it again."""


@dataclass(frozen=True, slots=True)
class Folders:
    """What lies in the folders that were given."""

    files: tuple[Path, ...]
    runs: tuple[Path, ...]
    """Folders of training runs."""
    roots: tuple[Path, ...]
    """Roots of stores, such as those of `voco predict`."""


def list_folders(folders: Sequence[Path]) -> Folders:
    """Everything in `folders`, sorted. Links are not followed. InputError if one is not there."""
    files: set[Path] = set()
    runs: set[Path] = set()
    roots: set[Path] = set()
    for top in folders:
        if not top.is_dir():
            raise InputError(f"{top}: expected a folder with the runs of trainings")
        for name, below, names in os.walk(top.resolve(), onerror=_refuse):
            folder = Path(name)
            if store_names(LocalStorage(folder)):
                roots.add(folder)
                _leave_out_root(folder, below, names)
            below[:] = [each for each in below if not RUN_ID.fullmatch(each)]  # preprocess runs
            if RUN_DESCRIPTION in names:
                runs.add(folder)
            files |= {folder / each for each in names if (folder / each).is_file()}
    return Folders(tuple(sorted(files)), tuple(sorted(runs)), tuple(sorted(roots)))


def _refuse(error: OSError) -> None:
    raise InputError(
        f"{error.filename}: cannot be searched ({error.strerror}); nothing was removed"
    )


def _leave_out_root(folder: Path, below: list[str], names: list[str]) -> None:
    """Take a root's own folders and files out of a walk."""
    own = {*store_names(LocalStorage(folder)), PREVIEWS_FOLDER, PRIVATE_FOLDER}
    below[:] = [each for each in below if each not in own]
    names[:] = [each for each in names if each not in (SEEN_FILES, ARCHIVES)]


def find_series(files: Sequence[Path], names: PatientNames) -> set[str]:
    """Series of the patient alone, by tables that name both: a root may have forgotten them."""
    own: set[str] = set()
    others: set[str] = set()
    for path in files:
        if path.suffix in (".parquet", ".csv"):
            try:
                mine, theirs = tables.series_in(path, names)
            except (pa.ArrowInvalid, OSError, csv.Error):
                continue  # no table, in spite of its name
            own |= mine
            others |= theirs
    return own - others


def find_in_files(
    files: Sequence[Path], evidence: Evidence, stores: Collection[str]
) -> Iterator[Finding]:
    """What names the patient in `files`. `stores` are digests of the stores that have the patient.

    Features of a whole store are removed if the store has the patient: their names are row numbers,
    and the next call computes them anew anyway, because the content of the store has changed.
    """
    for path in files:
        kind, count = _examine(path, evidence, stores)
        if count:
            again = "" if kind != PAGE or _is_page_of_one(path, evidence.names) else _command(path)
            target = path.parent if kind == CACHE else path
            yield Finding(str(target), kind, count, again)


def _examine(path: Path, evidence: Evidence, stores: Collection[str]) -> tuple[str, int]:
    """Kind and number of what a file says of the patient."""
    names = evidence.names
    match path.suffix:
        case ".parquet" | ".csv" | ".txt":
            return ROWS, _count_in_table(path, names)
        case ".json" if path.name == PATIENTS:
            return ENTRIES, len(entries_of_patients_file(path, evidence))
        case ".json" if path.name == CACHE_DESCRIPTION:
            return CACHE, int(_is_of_store(path, stores))
        case ".json":
            return ENTRIES, documents.count_entries(path, names)
        case ".html":
            page = path.read_text(encoding="utf-8", errors="replace")
            return PAGE, int(names.is_name(path.stem) or names.is_on_page(page))
        case ".dcm":
            is_named = names.is_name(path.stem) or names.is_in_dicom(path.read_bytes())
            return REPORT_FILE, int(is_named)
        case ".pt" if path.name == weight_files.CAPTURE:
            return CAPTURE, int(weight_files.captures_patient(path, names))
        case suffix if suffix in _WEIGHTS:
            return IDS, weight_files.count_names(path, names)
    return "", 0


def _count_in_table(path: Path, names: PatientNames) -> int:
    try:
        return tables.count_rows(path, names)
    except (pa.ArrowInvalid, OSError, csv.Error):
        # no table, in spite of its name: `find_residue` searches it as text
        return 0


def entries_of_patients_file(path: Path, evidence: Evidence) -> list[tuple[int, str]]:
    """(store, id) of the patient in a `patients.json`: the store's position, and the id there."""
    seen = SeenPatients.read(path.parent)
    parts = () if seen is None else seen.stores
    return [(i, patient) for i, part in enumerate(parts) for patient in evidence.ids_in(part)]


def _is_of_store(description: Path, stores: Collection[str]) -> bool:
    try:
        return json.loads(description.read_text())["store"]["digest"] in stores
    except (ValueError, KeyError, TypeError):
        return False


def _is_page_of_one(path: Path, names: PatientNames) -> bool:
    """Whether a page is of the patient alone, by its name: it is not made again."""
    return names.is_name(path.stem) or path.parent.name == "patients"


def _command(path: Path) -> str:
    return COMMANDS.get(path.name, OTHER_COMMAND)


def find_residue(files: Sequence[Path], names: PatientNames) -> Iterator[tuple[str, str]]:
    """(file, why) of what still names the patient after the removal."""
    for path in files:
        if not path.is_file():
            continue
        if atomic.is_temporary(path.name):
            yield str(path), "a temporary file of a process that was killed or still writes"
        elif names.is_in(path.name) or names.is_in(path.parent.name):
            yield str(path), "its name, or that of its folder, is an id of the patient"
        else:
            yield from ((str(path), why) for why in _why_left(path, names))


def _why_left(path: Path, names: PatientNames) -> Iterator[str]:
    try:
        if path.stat().st_size > _SEARCHED_BYTES:
            if path.suffix not in _WEIGHTS:  # their texts were read, and tensors are no texts
                yield f"larger than {_SEARCHED_BYTES >> 20} MiB, and not searched"
            return
        data = path.read_bytes()
    except OSError as error:
        yield f"cannot be read ({error.strerror})"
        return
    if _names_patient(path, data, names):
        yield "a text in it names the patient; voco cannot tell what may be cut out"


def _names_patient(path: Path, data: bytes, names: PatientNames) -> bool:
    if path.suffix == ".json":
        try:
            return any(names.is_in(text) for text in documents.strings_of(json.loads(data)))
        except ValueError:
            pass  # no JSON, in spite of its name: searched as any other text
    return names.is_in_bytes(data)
