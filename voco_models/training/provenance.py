"""Provenance of a run, from which it follows whether two runs are the same experiment."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from voco_data.errors import InputError
from voco_data.store import Store, StoreSpec

COMPARED_ENTRIES = ("stage", "recipe", "stores", "split", "init", "selection", "targets")
"""Entries that must be equal to resume a run. Versions are recorded, and may differ."""
ADDED_ENTRIES = ("selection", "targets")
"""Entries that runs of older versions or of other stages lack, which can still be resumed."""


def make_provenance(
    stage: str,
    recipe: Mapping[str, Any],
    stores: Sequence[Store],
    *,
    split: str | None = None,
    init: str | None = None,
    selection: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The provenance of a run as plain values, for every file of the run.

    `recipe` is the recipe as a dictionary, `split` the digest of the patient split, `init` the name
    of the initial weights, and `selection` the patients and volumes that the run uses. The specs of
    the stores are included, so that a machine without the stores can prepare a scan in the same
    way; see `read_specs`.
    """
    return {
        "stage": stage,
        "recipe": to_plain(recipe),
        "stores": [describe_store(store) for store in stores],
        "specs": {store.digest: to_plain(asdict(store.spec)) for store in stores},
        "split": split,
        "init": init,
        "selection": to_plain(selection),
        "voco": _version("voco"),
        "torch": str(torch.__version__),
        "timm": _version("timm"),
        "commit": current_commit(),
    }


def read_specs(provenance: Mapping[str, Any]) -> list[StoreSpec]:
    """The specs of the stores of a run, from its provenance.

    Raises InputError if it has none, or if one does not have the digest that is recorded with it.
    """
    specs = {
        digest: StoreSpec.from_mapping(dict(s)) for digest, s in provenance.get("specs", {}).items()
    }
    for digest, spec in specs.items():
        if spec.digest != digest:
            raise InputError(
                f"provenance: the spec of {digest} has the digest {spec.digest}; the run was edited"
            )
    if not specs:
        raise InputError(
            "provenance: expected the specs of the stores; an older version made the run"
        )
    return list(specs.values())


def describe_store(store: Store) -> dict[str, Any]:
    """Name, spec digest, number of volumes, and a digest of their rows and inputs."""
    table = store.catalogue
    content = hashlib.sha256()
    for row, digest in zip(table["row"].tolist(), table["input_digest"].tolist(), strict=True):
        content.update(f"{row} {digest}\n".encode())
    return {
        "name": store.storage.name,
        "digest": store.digest,
        "volumes": len(table),
        "content": content.hexdigest()[:12],
    }


def hash_file(path: Path) -> str:
    """The SHA-256 of a file's bytes, as hex. Raises InputError if it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error


def list_differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """A short phrase for each difference that makes `now` another experiment than `before`."""
    return [
        f"{path} was {old!r}, is {new!r}"
        for name in COMPARED_ENTRIES
        if name in before or name not in ADDED_ENTRIES
        for path, old, new in _changes(name, before.get(name), now.get(name))
    ]


def to_plain(value: Any) -> Any:
    """The value with mappings as dict, sequences as list and paths as text, as JSON restores it."""
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    return value


def _changes(path: str, old: Any, new: Any) -> list[tuple[str, Any, Any]]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        names = [*old, *(name for name in new if name not in old)]
        return [
            change
            for name in names
            for change in _changes(f"{path}.{name}", old.get(name), new.get(name))
        ]
    return [] if old == new else [(path, old, new)]


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def current_commit() -> str | None:
    """Commit of the checkout that tracks this file; None if installed, or without git."""
    file = Path(__file__).resolve()
    command = ["git", "-C", str(file.parent)]
    try:
        subprocess.run(
            [*command, "ls-files", "--error-unmatch", file.name],
            check=True,
            capture_output=True,
            timeout=10,
        )
        head = subprocess.run(
            [*command, "rev-parse", "HEAD"], check=True, capture_output=True, timeout=10, text=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return head.stdout.strip()
