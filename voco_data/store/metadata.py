"""The format and the spec that a store's own metadata give."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any

from voco_data.errors import InputError
from voco_data.storage.base import Storage
from voco_data.store.spec import StoreSpec

FORMAT = 1
"""Version of the layout on disk that this code reads and writes."""


def read_spec(store: Storage) -> StoreSpec:
    """The spec in the store's own metadata, checked against its digest and the folder's name."""
    attributes = _group_attributes(store)
    if attributes.get("format") != FORMAT:
        raise InputError(
            f"{store}: store format {attributes.get('format')!r}, expected {FORMAT}; use the voco "
            "that made it, or make a new store with voco preprocess (see Migrations in STORE.md)"
        )
    other = sorted(set(attributes["spec"]) ^ {field.name for field in fields(StoreSpec)})
    if other:
        raise InputError(
            f"{store}: another version of voco made it, their specs differ in {', '.join(other)}; "
            "make a new store with voco preprocess (see Migrations in STORE.md)"
        )
    spec = StoreSpec.from_mapping(attributes["spec"])
    if spec.digest != attributes.get("spec_digest") or store.name != spec.name:
        raise InputError(
            f"{store}: the spec inside gives {spec.name}, which is not this store's digest and "
            "name; the spec was edited or the folder renamed: restore it, or preprocess anew"
        )
    return spec


def _group_attributes(store: Storage) -> dict[str, Any]:
    try:
        metadata = json.loads(store.read("zarr.json"))
        attributes = metadata["attributes"]["voco"]
        if not isinstance(attributes["spec"], dict):
            raise TypeError("spec is not an object")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{store}: expected a store made by voco preprocess "
            f"(a folder <profile>-<digest>.zarr), cannot read its metadata ({error})"
        ) from error
    return dict(attributes)
