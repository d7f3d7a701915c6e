"""The mark of a run that has learnt from a patient who was forgotten since.

    RUN/tainted.json    {"since": "2026-03-01T03:00:00Z", "receipts": ["<digest of a receipt>"]}

It does not name the patient. It stays until the run is deleted: weights keep what they have learnt.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from voco_data.errors import InputError
from voco_data.storage import atomic

FILE = "tainted.json"


def is_tainted(run: str | Path) -> bool:
    """Whether a run has learnt from a patient who was forgotten since."""
    return (Path(run) / FILE).is_file()


def mark_tainted(run: Path, receipt: str, when: str) -> None:
    """Write the mark with the digest of a receipt, beside those of earlier ones."""
    path = run / FILE
    mark = read_mark(run) or {"since": when, "receipts": []}
    if receipt not in mark["receipts"]:
        mark["receipts"].append(receipt)
        atomic.remove_temporaries_of(path)  # of a withdrawal that was killed
        atomic.write_text(path, json.dumps(mark, indent=1) + "\n")


def read_mark(run: Path) -> dict[str, Any] | None:
    """The mark of a run; None if it has none. Raises InputError if it cannot be read."""
    try:
        mark = json.loads((run / FILE).read_text())
        return {"since": str(mark["since"]), "receipts": [str(each) for each in mark["receipts"]]}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{run / FILE}: expected the mark of a forgotten patient, cannot read it; restore the "
            "file, or retrain the run and delete this one"
        ) from error
