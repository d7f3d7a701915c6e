"""The stores under a root: spec, series, size on disk, and the runs that use them."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

from voco_data.errors import VocoError
from voco_data.maintenance.pins import Pin, pins_of_store, read_pins
from voco_data.storage import ReadableStorage, Storage, existing_root, parent_storage, store_names
from voco_data.store import ALGORITHM_VERSION, CATALOGUE, FORMAT, GROUP_METADATA, Store


def list_stores(root: str | Path | Storage) -> dict[str, object]:
    """`stores`: one row a store under `root`, by name. `problems`: one line a store that fails.

    Raises InputError if there is no root.
    """
    root_storage = existing_root(root)
    pins = read_pins(root_storage)
    rows, problems = [], []
    for name in store_names(root_storage):
        try:
            rows.append(_row(Store.open(root_storage / name), pins_of_store(pins, name)))
        except VocoError as error:
            problems.append(str(error))
    return {"stores": rows, "problems": problems}


def describe_store(store: str | Path | ReadableStorage) -> dict[str, object]:
    """One store in full: its row of `list_stores`, and formats, times, flags, ids and users."""
    opened = Store.open(store)
    storage, table = opened.storage, opened.catalogue
    pins = pins_of_store(read_pins(parent_storage(str(storage))), storage.name)
    flags = Counter(flag for text in table["flags"] for flag in text.split())
    return _row(opened, pins) | {
        "format": FORMAT,
        "algorithm_version": opened.spec.algorithm_version,
        "created": last_changed(storage, GROUP_METADATA),
        "last_written": last_changed(storage, CATALOGUE),
        "layouts": dict(Counter(table["layout"])),
        "ids": dict(Counter(table["ids"])),
        "transfer_syntaxes": dict(Counter(table["transfer_syntax"])),
        "box_methods": dict(Counter(table["box_method"])),
        "flags": dict(sorted(flags.items())),
        "used_by": [
            {
                "run": pin.run,
                "stage": pin.stage,
                "machine": pin.machine,
                "state": pin.state,
                "when": pin.when,
            }
            for pin in pins
        ],
    }


def _row(store: Store, pins: list[Pin]) -> dict[str, object]:
    z, y, x = store.grid
    return {
        "name": store.storage.name,
        "path": str(store.storage),
        "profile": store.spec.profile,
        "digest": store.digest,
        "grid": [z, y, x],
        "series": len(store),
        "patients": int(store.catalogue["patient_id"].nunique()),
        "volume_bytes": len(store) * store.spec.volume_bytes,
        "bytes": sum(size for _, size in store.storage.list_objects()),
        "runs": len(pins),
        "current": store.spec.algorithm_version == ALGORITHM_VERSION,
        "spec": json.loads(store.spec.canonical_json()),
    }


def last_changed(store: ReadableStorage, key: str) -> str | None:
    """When an object was last written, UTC, ISO 8601; None if it is missing."""
    written = store.last_written(key)
    return None if written is None else f"{written:%Y-%m-%dT%H:%M:%SZ}"
