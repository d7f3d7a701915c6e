"""What lies under a root: stores, their specs, how much they hold, how large, and who uses them."""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from pathlib import Path

from voco_data.errors import InputError, VocoError
from voco_data.maintenance.pins import Pin, pins_of, users
from voco_data.storage.base import Place, place_of, root_of
from voco_data.store.metadata import FORMAT
from voco_data.store.reader import Store
from voco_data.store.spec import ALGORITHM_VERSION

STORE_NAME = re.compile(r"[a-z][a-z0-9_]{0,30}-[0-9a-f]{12}\.zarr")
"""`<profile>-<digest>.zarr`; nothing else under a root is taken for a store."""


def list_stores(root: str | Path | Place) -> dict[str, object]:
    """A row a store under `root`, sorted by name, and a line for each that cannot be opened.

    InputError if there is no root.
    """
    home = existing_root(root)
    pins = pins_of(home)
    rows, problems = [], []
    for name in store_names(home):
        try:
            rows.append(_row(Store.open(home / name), users(pins, name)))
        except VocoError as error:
            problems.append(str(error))
    return {"stores": rows, "problems": problems}


def describe(store: str | Path | Place) -> dict[str, object]:
    """Everything about one store: its row of `list_stores`, spec, users, flags, formats, times."""
    opened = Store.open(store)
    place, table = opened.place, opened.catalogue
    pins = users(pins_of(root_of(str(place))), place.name)
    flags = Counter(flag for text in table["flags"] for flag in text.split())
    return _row(opened, pins) | {
        "format": FORMAT,
        "algorithm_version": opened.spec.algorithm_version,
        "created": _when(place, "zarr.json"),
        "last_written": _when(place, "volumes/catalogue.parquet"),
        "layouts": dict(Counter(table["layout"])),
        "ids": dict(Counter(table["ids"])),
        "transfer_syntaxes": dict(Counter(table["transfer_syntax"])),
        "box_methods": dict(Counter(table["box_method"])),
        "flags": dict(sorted(flags.items())),
        "used_by": [
            {"run": pin.run, "stage": pin.stage, "machine": pin.machine, "state": pin.state}
            | {"when": pin.when}
            for pin in pins
        ],
    }


def existing_root(root: str | Path | Place) -> Place:
    """The place of a root that is there. Raises InputError."""
    home = place_of(root)
    folder = home.local()
    if folder is not None and not folder.is_dir():
        raise InputError(f"{home}: expected a folder that voco preprocess made with --root")
    return home


def store_names(root: Place) -> list[str]:
    """Folder names of the stores under a root, sorted; also of those that do not open."""
    return sorted(name for name in root.folders() if STORE_NAME.fullmatch(name))


def _row(store: Store, pins: list[Pin]) -> dict[str, object]:
    z, y, x = store.grid
    return {
        "name": store.place.name,
        "path": str(store.place),
        "profile": store.spec.profile,
        "digest": store.digest,
        "grid": [z, y, x],
        "series": len(store),
        "patients": int(store.catalogue["patient_id"].nunique()),
        "volume_bytes": len(store) * z * y * x,
        "bytes": sum(size for _, size in store.place.sizes()),
        "runs": len(pins),
        "current": store.spec.algorithm_version == ALGORITHM_VERSION,
        "spec": json.loads(store.spec.canonical_json()),
    }


def _when(store: Place, key: str) -> str | None:
    """When a file was last written, UTC; None where nothing says."""
    folder = store.local()
    if folder is None or store.size(key) is None:
        return None
    changed = time.gmtime((folder / key).stat().st_mtime)
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", changed)
