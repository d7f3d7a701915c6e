"""The mark of a run that has learnt from a patient who was forgotten since.

    RUN/tainted.json    {"since": "2026-03-01T03:00:00Z", "receipts": ["<digest of a receipt>"]}

It does not name the patient. It stays until the run is deleted: weights keep what they have learnt.
A run that starts from the weights of a marked run gets the mark too.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from voco_data.errors import InputError
from voco_data.storage import atomic

log = logging.getLogger(__name__)

TAINTED = "tainted.json"


def is_tainted(run: str | Path) -> bool:
    """Whether a run has learnt from a patient who was forgotten since."""
    return (Path(run) / TAINTED).is_file()


def mark_tainted(run: Path, receipt: str, when: str) -> None:
    """Write the mark with the digest of a receipt, beside those of earlier ones."""
    path = run / TAINTED
    mark = read_mark(run) or {"since": when, "receipts": []}
    if receipt not in mark["receipts"]:
        mark["receipts"].append(receipt)
        atomic.remove_temporaries_of(path)  # of a withdrawal that was killed
        atomic.write_text(path, json.dumps(mark, indent=1) + "\n")


def inherit_mark(init: str | Path, run: Path) -> None:
    """Mark `run`, and warn, if `init`, the folder of a run or a file in it, is of a marked run."""
    folder = Path(init) if Path(init).is_dir() else Path(init).parent
    mark = read_mark(folder) if Path(init).exists() else None
    if mark is None:
        return
    log.warning(
        "init: %s has learnt from a patient who was forgotten, so %s is marked as well; "
        "start from another run",
        init,
        run,
    )
    for receipt in mark["receipts"]:
        mark_tainted(run, receipt, mark["since"])


def read_mark(run: Path) -> dict[str, Any] | None:
    """The mark of a run; None if it has none. Raises InputError if it cannot be read."""
    try:
        mark = json.loads((run / TAINTED).read_text())
        return {"since": str(mark["since"]), "receipts": [str(each) for each in mark["receipts"]]}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{run / TAINTED}: expected the mark of a forgotten patient, cannot read it; restore "
            "the file, or retrain the run and delete this one"
        ) from error
