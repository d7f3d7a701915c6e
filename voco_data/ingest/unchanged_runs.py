"""Whether an archive has the same series with the same outcomes as in its last run."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import groupby

from voco_data.qc import ledger
from voco_data.storage import RUN_ID, RUNS_FOLDER, Storage
from voco_data.store import StoreWriter


def archive_key(archive: str, stores: Sequence[StoreWriter]) -> str:
    """What a ledger calls its archive: a digest of the id of the archive and the stores filled."""
    text = "\0".join([archive, *sorted(store.storage.name for store in stores)])
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:16]


def find_unchanged_run(root: Storage, key: str, digest: str) -> Storage | None:
    """The last run over the archive of `key`, if its ledger has the rows of `digest`."""
    names = {found.split("/")[1] for found, _ in root.list_objects(RUNS_FOLDER)}
    ordered = sorted(filter(RUN_ID.fullmatch, names), reverse=True)
    for _, of_one_second in groupby(ordered, lambda name: name.partition("-")[0]):
        runs = [root / RUNS_FOLDER / name for name in of_one_second]
        stamps = [(ledger.read_stamp(run), run) for run in runs]
        own = [(stamp, run) for stamp, run in stamps if stamp.archive == key]
        if own:
            last, run = max(own, key=lambda each: each[0].time_ns)
            return run if last.digest == digest else None
    return None
