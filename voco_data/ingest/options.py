"""The options of a preprocess run: what the function, the command and the flow take.

Only light modules are imported: the command line shows these choices, and must start at once.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias, TypedDict

from voco_data.errors import InputError
from voco_data.layouts import AUTO, layout_choices

if TYPE_CHECKING:
    from voco_data.store import StoreSpec

UnevenPolicy: TypeAlias = Literal["refuse", "resample"]
"""What may be done with a series of missing or uneven slices."""

# Only the registry lists the names of layouts, so a type checker sees a string.
if TYPE_CHECKING:
    LayoutName: TypeAlias = str
else:
    LayoutName = Literal[layout_choices()]


@dataclass(frozen=True, slots=True)
class IngestOptions:
    """How to bring stores up to date with an archive. Every option has a default."""

    layout: LayoutName = AUTO
    """How the archive is laid out; `auto` recognises the layout."""
    specs: Sequence[str] = ("pretrain", "finetune")
    """Names of built-in store specs."""
    spec_file: str | Path | None = None
    """JSON file with store specs, used instead of `specs`."""
    workers: int | None = None
    """Processes of this machine; by default one for each core that this process may use."""
    dask: str | None = None
    """Address of a Dask scheduler, or `local` to start a cluster of `workers` processes."""
    boxes: str | Path | None = None
    """Table of crop boxes that were made elsewhere, by the archive's own series ids."""
    uneven: UnevenPolicy | None = None
    """What to do with missing and uneven slices; None leaves it to the specs."""
    keep_ids: bool = False
    """Keep patient and series ids instead of replacing them by pseudonyms."""
    deep: bool = False
    """Read every file again, instead of trusting size and modification time."""
    wait: float = 0.0
    """Seconds to wait for a store that another run is filling."""
    include: Sequence[str] = ()
    """Globs over relative paths: only matching files are read. Empty means all."""
    exclude: Sequence[str] = ()
    """Globs over relative paths: matching files are not read."""
    progress: bool = False
    """Show progress bars on stderr."""

    @property
    def n_workers(self) -> int:
        """The number of local processes."""
        return self.workers or len(os.sched_getaffinity(0))


class IngestChanges(TypedDict, total=False):
    """The fields of `IngestOptions` as keyword arguments."""

    layout: LayoutName
    specs: Sequence[str]
    spec_file: str | Path | None
    workers: int | None
    dask: str | None
    boxes: str | Path | None
    uneven: UnevenPolicy | None
    keep_ids: bool
    deep: bool
    wait: float
    include: Sequence[str]
    exclude: Sequence[str]
    progress: bool


def with_changes(options: IngestOptions | None, changes: IngestChanges) -> IngestOptions:
    """The options with some fields changed; the defaults if `options` is None."""
    return replace(options or IngestOptions(), **changes)


def choose_specs(options: IngestOptions) -> list[StoreSpec]:
    """The specs of the stores to fill, with the given policy on uneven slices.

    Raises InputError for an unknown name, a spec file that is not one, and two different specs of
    one profile.
    """
    from voco_data.store import PROFILES, distinct_specs, read_spec_file

    if options.spec_file is not None:
        specs = read_spec_file(Path(options.spec_file))
    else:
        unknown = [name for name in options.specs if name not in PROFILES]
        if unknown or not options.specs:
            got = repr(unknown[0]) if unknown else "none"
            raise InputError(
                f"spec must be one of {', '.join(PROFILES)}, got {got}; "
                "give --spec-file for one of your own"
            )
        specs = [PROFILES[name] for name in options.specs]
    if options.uneven is not None:
        specs = [replace(spec, uneven_slices=options.uneven) for spec in specs]
    return distinct_specs(specs)
