"""Which training runs use which store: a small file a run and store, so that `gc` keeps it.

    <root>/pins/<spec digest>-<run>.json    {run, machine, stage, store, spec_digest, when}

A pin counts while its run folder says that it used the store. A run folder that this machine
cannot see keeps its pin: it may lie on another machine, or on a disk that is not mounted.
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
from voco_data.storage.base import Storage
from voco_data.storage.urls import parent_storage
from voco_data.store.reader import Store

log = logging.getLogger(__name__)

FOLDER = "pins"
RUN = "run.json"
"""What every training run keeps in its folder; its `stores` are those that it used."""

State = Literal["used", "elsewhere", "gone"]


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
        """Where the pin lies under a root. The run's path never becomes a path of ours."""
        text = f"{self.machine}\0{self.run}".encode(errors="surrogateescape")
        run = xxhash.xxh3_128_hexdigest(text)
        return f"{FOLDER}/{self.spec_digest}-{run}.json"

    @property
    def state(self) -> State:
        """Whether the run still uses the store: yes, cannot be seen from here, or no."""
        folder = Path(self.run)
        if (folder / RUN).is_file():
            return "used" if self.spec_digest in _digests_used(folder / RUN) else "gone"
        if self.machine != platform.node() or not folder.parent.is_dir():
            return "elsewhere"
        return "gone"


def pin(store: Store, run: Path, stage: str) -> None:
    """Say that a run uses a store. A root that cannot be written costs a warning, not the run."""
    made = Pin(
        run=str(run.absolute()),
        machine=platform.node(),
        stage=stage,
        store=store.storage.name,
        spec_digest=store.digest,
        when=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    )
    root = parent_storage(str(store.storage))
    try:
        root.write(made.key, json.dumps(asdict(made), indent=2).encode())
    except (OSError, VocoError) as error:
        log.warning(
            "%s: cannot note that this run uses %s (%s); keep the store while you need it",
            root,
            store.storage.name,
            error,
        )


def pins_of(root: Storage) -> list[Pin]:
    """All pins under a root, the oldest first. One that cannot be read is named in a warning."""
    return sorted(_read_all(root), key=lambda pin: (pin.when, pin.run))


def users(pins: list[Pin], store: str) -> list[Pin]:
    """The pins that keep a store, by its folder name."""
    return [pin for pin in pins if pin.store == store and pin.state != "gone"]


def _read_all(root: Storage) -> Iterator[Pin]:
    for key, _ in root.sizes(FOLDER):
        if not key.endswith(".json"):
            continue
        try:
            yield Pin(**json.loads(root.read(key)))
        except FileNotFoundError:
            continue
        except (ValueError, TypeError) as error:
            log.warning("%s/%s: expected a pin, cannot read it (%s)", root, key, error)


def _digests_used(description: Path) -> set[str]:
    """Spec digests that a run's own description names. One that cannot be read names none."""
    try:
        data = json.loads(description.read_text())
        found: Any = data["stores"] if "stores" in data else data["provenance"]["stores"]
        return {str(store["digest"]) for store in found}
    except (OSError, ValueError, KeyError, TypeError):
        return set()
