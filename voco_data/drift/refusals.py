"""Which patients had a refused series, before and after a time: from the ledgers of a root."""

from __future__ import annotations

import calendar
import time

from voco_data.qc import ledger
from voco_data.storage import RUN_ID, RUNS_FOLDER, Storage

_COLUMNS = ["kind", "status", "patient_id"]
_SERIES = ("stored", "cached", "refused")


def refused_patients(root: Storage, since: float) -> tuple[dict[str, bool], dict[str, bool]]:
    """Patient to whether a series of it was refused: those known at the time `since`, and the new.

    `since` is in seconds since 1970. The last ledger that names a patient counts, of those known
    the last one before `since`. Patients without an id are left out.
    """
    known: dict[str, bool] = {}
    later: dict[str, bool] = {}
    for name in sorted(_run_names(root)):
        (known if _time_of(name) <= since else later).update(_read(root / RUNS_FOLDER / name))
    return known, {patient: refused for patient, refused in later.items() if patient not in known}


def count_ledgers_to_keep(root: Storage, since: str) -> int:
    """How many of the last ledgers are needed for a cohort that was fixed at `since`, UTC.

    Those that came later, and the last one before.
    """
    moment = utc_seconds(since)
    return 1 + sum(_time_of(name) > moment for name in _run_names(root))


def utc_seconds(text: str) -> float:
    """Seconds since 1970 of a time such as 2026-03-01T03:00:00Z. Raises ValueError."""
    return float(calendar.timegm(time.strptime(text, "%Y-%m-%dT%H:%M:%SZ")))


def _run_names(root: Storage) -> set[str]:
    names = {key.split("/")[1] for key, _ in root.list_objects(RUNS_FOLDER)}
    return {name for name in names if RUN_ID.fullmatch(name)}


def _time_of(run: str) -> float:
    """When a run ended; its name has the local time."""
    return time.mktime(time.strptime(run.partition("-")[0], "%Y%m%dT%H%M%S"))


def _read(run: Storage) -> dict[str, bool]:
    found: dict[str, bool] = {}
    for row in ledger.read_rows(run, _COLUMNS):
        if row["kind"] == "series" and row["status"] in _SERIES and row["patient_id"]:
            patient = str(row["patient_id"])
            found[patient] = found.get(patient, False) or row["status"] == "refused"
    return found
