"""What lies under a root: stores, their specs, how much they hold and how large they are."""

from __future__ import annotations

import json
from pathlib import Path

from voco_data.errors import InputError
from voco_data.place import Place, place_of
from voco_data.store import Store


def list_stores(root: str | Path) -> list[dict[str, object]]:
    """One description a store under `root`, sorted by name. InputError if there is no root."""
    home = place_of(root)
    folder = home.local()
    if folder is not None and not folder.is_dir():
        raise InputError(f"{folder}: expected a folder that voco preprocess made with --root")
    return [describe(home / name) for name in sorted(home.folders()) if name.endswith(".zarr")]


def describe(store: str | Path | Place) -> dict[str, object]:
    """Name, spec, number of series and patients, and bytes of the volumes of one store."""
    opened = Store.open(store)
    z, y, x = opened.grid
    return {
        "name": opened.place.name,
        "path": str(opened.place),
        "profile": opened.spec.profile,
        "digest": opened.digest,
        "grid": list(opened.grid),
        "series": len(opened),
        "patients": int(opened.catalogue["patient_id"].nunique()),
        "volume_bytes": len(opened) * z * y * x,
        "spec": json.loads(opened.spec.canonical_json()),
    }
