"""What the stores of a root tell of the ids in them: whether these are kept or pseudonyms."""

from __future__ import annotations

from voco_data.errors import StoreCorrupt
from voco_data.storage import ReadableStorage, store_names
from voco_data.store import CATALOGUE, catalogue, integrity

KEPT = "kept"
PSEUDONYM = "pseudonym"
"""The two values of `Record.ids`."""

_COLUMNS = ("ids", "layout")


def ids_in_stores(root: ReadableStorage) -> set[tuple[str, str]]:
    """(`kept` or `pseudonym`, layout) of all series in the stores of a root, each pair once.

    The root need not exist. The records are read where a catalogue is absent or damaged, as after
    the first run was killed.
    """
    folder = root.local_folder()
    if folder is not None and not folder.is_dir():
        return set()
    found: set[tuple[str, str]] = set()
    for name in store_names(root):
        found |= _ids_in_store(root / name)
    return found


def _ids_in_store(store: ReadableStorage) -> set[tuple[str, str]]:
    if store.size(CATALOGUE) is not None:
        try:
            return {
                (line["ids"], line["layout"])
                for batch in catalogue.iter_batches(store, _COLUMNS)
                for line in batch.to_pylist()
            }
        except StoreCorrupt:
            pass  # the next run makes it again from the records
    return {(record.ids, record.layout) for record in integrity.readable_records(store)}
