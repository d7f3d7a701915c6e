"""The split of a training run: the one that is given, or the one in the run's folder.

A run keeps a copy of its split in RUN/split.json, which can be given to another run.
"""

from __future__ import annotations

from pathlib import Path

from voco_data.errors import InputError
from voco_data.selection import Split, read_split, write_split

SPLIT = "split.json"


def find_split(given: str | Path | None, run: Path, *, resume: bool) -> Split | None:
    """The split of a run: that of the file `given`, or the one that a run to resume has already.

    A run keeps its split, though patients were appended to the file since. Raises InputError if a
    file cannot be read, or if the file no longer has the patients of the run in their groups.
    """
    split = None if given is None else read_split(Path(given))
    kept_file = run / SPLIT
    if not resume or not kept_file.exists():
        return split
    kept = read_split(kept_file)
    if split is not None and not kept.groups.items() <= split.groups.items():
        raise InputError(
            f"{run}: cannot resume: the split differs from {kept_file}; leave --split out, or give "
            "another --out"
        )
    return kept


def keep_split(split: Split | None, run: Path) -> None:
    """Write `RUN/split.json`, if there is a split. Raises VocoError if it cannot be written."""
    if split is not None:
        write_split(run / SPLIT, split)
