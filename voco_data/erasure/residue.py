"""Files under a root that name a patient and stay: those of training runs."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from voco_data.erasure.run_files import Names, runs_of
from voco_data.ingest.seen_files import KEY as FRESHNESS
from voco_data.qc import ledger
from voco_data.storage.base import Storage
from voco_data.storage.root import PREVIEWS_FOLDER, PRIVATE_FOLDER, REPORT, store_names
from voco_data.storage.root import RUNS_FOLDER as RUNS

TEXTS = (".csv", ".html", ".json", ".log", ".txt")


def find_residue(root: Storage, ids: Collection[str]) -> Iterator[str]:
    """Keys of texts and tables that name one of the ids, beside stores and preprocess runs.

    What cannot be read may name it too, and says so beside its key.
    """
    ours = (*store_names(root), PREVIEWS_FOLDER, PRIVATE_FOLDER, FRESHNESS)
    runs = {f"{RUNS}/{run}/{name}" for run in runs_of(root) for name in (ledger.KEY, REPORT)}
    names = Names(ids)
    keys = (key for key, _ in root.sizes() if key.partition("/")[0] not in ours)
    for key in sorted(key for key in keys if key not in runs):
        try:
            if _says(root, key, names):
                yield key
        except FileNotFoundError:  # of a training run that lives, and has removed it since
            pass
        except OSError as error:
            yield f"{key} (cannot be read: {error.strerror or error})"


def _says(root: Storage, key: str, names: Names) -> bool:
    if key.endswith(TEXTS):
        return names.in_text(root.read(key).decode("latin-1"))
    return key.endswith(".parquet") and _in_table(root, key, names)


def _in_table(root: Storage, key: str, names: Names) -> bool:
    try:
        with root.fetched(key) as path, pq.ParquetFile(path) as file:
            texts = [
                field.name
                for field in file.schema_arrow
                if pa.types.is_string(field.type) or pa.types.is_large_string(field.type)
            ]
            return any(
                names.in_text("\n".join(filter(None, column.to_pylist())))
                for batch in file.iter_batches(columns=texts)
                for column in batch.columns
            )
    except pa.ArrowInvalid:  # not a table, whatever its name says
        return False
