"""The options of a preprocess run: what the function, the command and the flow take.

Only light modules are imported: the command line shows these choices, and must start at once.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Literal,
    NamedTuple,
    TypeAlias,
    get_args,
    get_type_hints,
)

from voco_data.deidentification import TextSearch
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
    """How to bring stores up to date with an archive. Every option has a default.

    This is the only list of the options. The parameters of the flow and the flags of the command
    take names, defaults and descriptions from it.
    """

    layout: Annotated[LayoutName, "How source is laid out; auto finds out."] = AUTO
    specs: Annotated[Sequence[str], "Names of built-in store specs."] = ("pretrain", "finetune")
    spec_file: Annotated[
        str | Path | None, "JSON file with store specs of your own, instead of specs."
    ] = None
    workers: Annotated[int | None, "Local processes; by default as many as the machine allows."] = (
        None
    )
    """The machine allows one for each core that this process may use."""
    dask: Annotated[str | None, "Address of a Dask scheduler, or local, instead of workers."] = None
    """`local` starts a cluster of `workers` processes."""
    boxes: Annotated[str | Path | None, "Table of boxes made elsewhere, by series id."] = None
    """The series ids are the archive's own, not pseudonyms."""
    ids: Annotated[str | Path | None, "Table of patients, by series or file."] = None
    """It replaces the patient ids of the archive, before pseudonyms are made."""
    uneven: Annotated[
        UnevenPolicy | None, "What to do with missing and uneven slices, whatever the specs say."
    ] = None
    """None leaves it to the specs."""
    keep_ids: Annotated[bool, "Keep patient and series ids instead of pseudonyms."] = False
    burned_in: Annotated[TextSearch, "How to search pixels for text that may name the patient."] = (
        "usual"
    )
    """`strict` examines every slice, and refuses more: also a few series without text."""
    deep: Annotated[bool, "Re-read every file instead of trusting size and time stamp."] = False
    wait: Annotated[float, "Seconds to wait for a store that another run is filling."] = 0.0
    include: Annotated[Sequence[str], "Only paths that match one of these patterns."] = ()
    """Globs over relative paths. Empty means all."""
    exclude: Annotated[Sequence[str], "No path that matches one of these patterns."] = ()
    """Globs over relative paths."""
    prune: Annotated[bool, "List rows whose series source no longer holds."] = False
    """Only rows that came from this source, and from no other."""
    yes: Annotated[bool, "With prune: remove these rows."] = False
    skip_unchanged: Annotated[
        bool, "Write no ledger and no report if nothing has changed since the last run."
    ] = False
    """The summary then names those of the last run over the same archive."""
    progress: Annotated[bool, "Show progress bars on stderr."] = False

    @property
    def n_workers(self) -> int:
        """The number of local processes."""
        return self.workers or len(os.sched_getaffinity(0))


class Option(NamedTuple):
    """One field of `IngestOptions`."""

    name: str
    hint: Any
    """Its type."""
    default: Any
    description: str


def list_options() -> list[Option]:
    """The options in their order, for what shows them: a command line, a form."""
    hints = get_type_hints(IngestOptions, include_extras=True)
    options = []
    for field in fields(IngestOptions):
        hint, description = get_args(hints[field.name])
        options.append(Option(field.name, hint, field.default, description))
    return options


def with_changes(options: IngestOptions | None, changes: Mapping[str, Any]) -> IngestOptions:
    """The options with some fields changed; the defaults if `options` is None.

    Raises TypeError for a name that is no field.
    """
    return replace(options or IngestOptions(), **changes)


def check_options(options: IngestOptions) -> None:
    """Raise InputError for options that contradict each other."""
    if options.yes and not options.prune:
        raise InputError("--yes goes with --prune: it removes the rows that --prune lists")
    if options.prune and (options.include or options.exclude):
        raise InputError(
            "--prune compares the stores with the whole archive; leave --include and --exclude out"
        )


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
