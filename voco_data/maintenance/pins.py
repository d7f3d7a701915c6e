"""Pins: files that say which training runs use a store, so that `gc` keeps it. One a run and store.

    <root>/pins/<spec digest>-<run>.json    {run, machine, stage, store, spec_digest, when}

A pin counts as long as the run folder says that the run uses the store. It also counts if this
machine cannot see the run folder, which may be on another machine or a disk that is not mounted.
"""

from __future__ import annotations

import json
import logging
import platform
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import xxhash

from voco_data.errors import VocoError
from voco_data.storage import PINS_FOLDER, RUN_DESCRIPTION, ReadableStorage, parent_storage
from voco_data.store import Store

log = logging.getLogger(__name__)

PinState = Literal["used", "elsewhere", "gone"]
"""What a pin says about its run.

`used`: the run folder exists, and its description names the store. `elsewhere`: this machine cannot
see the run folder. `gone`: the folder was removed, or another run took its place.
"""


@dataclass(frozen=True, slots=True)
class Pin:
    """One run that uses one store."""

    run: str
    """Absolute path of the run folder."""
    machine: str
    """Name of the machine that it ran on."""
    stage: str
    """`pretrain` or `finetune`."""
    store: str
    """Folder name of the store."""
    spec_digest: str
    when: str
    """When the run was last started, UTC, ISO 8601."""

    @property
    def key(self) -> str:
        """Key of the pin below a root, with a hash of the run's path."""
        text = f"{self.machine}\0{self.run}".encode(errors="surrogateescape")
        run = xxhash.xxh3_128_hexdigest(text)
        return f"{PINS_FOLDER}/{self.spec_digest}-{run}.json"

    @property
    def state(self) -> PinState:
        """The state of the run folder now."""
        folder = Path(self.run)
        description = folder / RUN_DESCRIPTION
        if description.is_file():
            return "used" if self.spec_digest in _spec_digests(description) else "gone"
        if self.machine != platform.node() or not folder.parent.is_dir():
            return "elsewhere"
        return "gone"


def pin_store(store: Store, run: Path, stage: str) -> None:
    """Write a pin for the run in the folder `run`. Warns if the root cannot be written."""
    pin = Pin(
        run=str(run.absolute()),
        machine=platform.node(),
        stage=stage,
        store=store.storage.name,
        spec_digest=store.digest,
        when=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    )
    root = parent_storage(str(store.storage))
    try:
        root.write(pin.key, json.dumps(asdict(pin), indent=2).encode())
    except (OSError, VocoError) as error:
        log.warning(
            "%s: cannot note that this run uses %s (%s); keep the store while you need it",
            root,
            store.storage.name,
            error,
        )


def read_pins(root: ReadableStorage) -> list[Pin]:
    """All pins under a root, the oldest first. Warns of one that cannot be read."""
    return sorted(_iter_pins(root), key=lambda pin: (pin.when, pin.run))


def pins_of_store(pins: list[Pin], store: str) -> list[Pin]:
    """The pins that keep the store in the folder `store`."""
    return [pin for pin in pins if pin.store == store and pin.state != "gone"]


def _iter_pins(root: ReadableStorage) -> Iterator[Pin]:
    for key, _ in root.list_objects(PINS_FOLDER):
        if not key.endswith(".json"):
            continue
        try:
            yield Pin(**json.loads(root.read(key)))
        except FileNotFoundError:
            continue
        except (ValueError, TypeError) as error:
            log.warning("%s/%s: expected a pin, cannot read it (%s)", root, key, error)


def _spec_digests(description: Path) -> set[str]:
    """Digests of the stores in a run's description; none if it cannot be read."""
    try:
        data = json.loads(description.read_text())
        stores: Any = data["stores"] if "stores" in data else data["provenance"]["stores"]
        return {str(store["digest"]) for store in stores}
    except (OSError, ValueError, KeyError, TypeError):
        return set()
