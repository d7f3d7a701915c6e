"""How a run names patients and series under a root: by their own ids, or by pseudonyms."""

from __future__ import annotations

from voco_data.cohort import Cohort
from voco_data.deidentification import Pseudonymiser, id_mode, pseudonyms
from voco_data.ingest.options import IngestOptions
from voco_data.layouts import public_layouts
from voco_data.storage import Storage


def check_ids(root: Storage, cohort: Cohort, options: IngestOptions) -> None:
    """Raise InputError if the ids of a run do not fit those of the root. Writes nothing.

    They do not fit if the root has another id mode, or if the key of its pseudonyms is lost.
    """
    if cohort.public_ids:
        return
    mode = id_mode.mode_name(keeps_ids=options.keep_ids)
    id_mode.check_id_mode(root, mode, public_layouts())
    if not options.keep_ids:
        pseudonyms.load(root)


def open_pseudonymiser(
    root: Storage, cohort: Cohort, options: IngestOptions
) -> Pseudonymiser | None:
    """What makes the pseudonyms of a run; None if it keeps the ids. Sets the root's id mode."""
    if cohort.public_ids:
        return None
    mode = id_mode.mode_name(keeps_ids=options.keep_ids)
    id_mode.set_id_mode(root, mode, public_layouts())
    return None if options.keep_ids else pseudonyms.load_or_make(root)
