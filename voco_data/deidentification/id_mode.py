"""The id mode of a root: whether its ids are the archives' own, or pseudonyms.

A root has one mode, because a patient must not have two names in it. The first run sets the mode.
Archives of a public layout keep their ids under either mode.
"""

from __future__ import annotations

from collections.abc import Collection

from voco_data.deidentification import pseudonyms
from voco_data.deidentification.written_ids import KEPT, PSEUDONYM, ids_in_stores
from voco_data.errors import InputError
from voco_data.storage import ID_MODE, ID_MODE_LOCK, ReadableStorage, Storage

LOCK_S = 60.0
"""Time to wait for another run that sets the mode."""


def mode_name(*, keeps_ids: bool) -> str:
    """The mode of a run: `kept` or `pseudonym`."""
    return KEPT if keeps_ids else PSEUDONYM


def check_id_mode(root: ReadableStorage, mode: str, public_layouts: Collection[str]) -> None:
    """Raise InputError if the ids of a root are of another mode. Writes nothing."""
    current = _recorded_mode(root) or _mode_of_older_root(root, public_layouts)
    if current not in (None, mode):
        change = "leave --keep-ids out" if mode == KEPT else "give --keep-ids"
        held = "pseudonyms" if current == PSEUDONYM else "the archives' own ids"
        raise InputError(f"{root}: this root holds {held}; {change}, or choose another --root")


def set_id_mode(root: Storage, mode: str, public_layouts: Collection[str]) -> None:
    """Record the mode in the root, if none is recorded. Raises as `check_id_mode` does.

    Of two runs that begin at once, the second finds the mode of the first.
    """
    if _recorded_mode(root) == mode:
        return
    with root.lock(ID_MODE_LOCK, wait_seconds=LOCK_S):
        check_id_mode(root, mode, public_layouts)
        if _recorded_mode(root) is None:
            root.write(ID_MODE, f"{mode}\n".encode())


def _recorded_mode(root: ReadableStorage) -> str | None:
    """The mode that the root's file tells; None if there is no file. Raises InputError."""
    try:
        text = root.read(ID_MODE).decode(errors="replace").strip()
    except FileNotFoundError:
        return None
    if text not in (KEPT, PSEUDONYM):
        raise InputError(
            f"{root}/{ID_MODE}: expected {KEPT} or {PSEUDONYM}, got something else; "
            "write what the stores hold (voco store info: ids), or choose another --root"
        )
    return text


def _mode_of_older_root(root: ReadableStorage, public_layouts: Collection[str]) -> str | None:
    """The mode of a root that has stores and no file; None if nothing tells.

    Raises InputError if ids of both modes are in it.
    """
    modes = {
        ids for ids, layout in ids_in_stores(root) if ids != KEPT or layout not in public_layouts
    }
    if len(modes) > 1:
        raise InputError(
            f"{root}: this root holds both pseudonyms and ids that were kept, so a patient may "
            "have two names in it; choose another --root, and preprocess into it anew"
        )
    if modes:
        return modes.pop()
    return PSEUDONYM if pseudonyms.has_key_or_map(root) else None
