"""The files of a run. Writes are atomic and forced to disk; reading executes no code from a file.

RUN/checkpoint.pt   the state of a training, to resume it; see `train_state.py`
RUN/backbone.pt     a backbone's name and weights, from which another stage can start
RUN/run.json        stage, recipe and provenance, for people and for `voco evaluate`; of a run that
                    has ended also the digests of its files, see `run_files.py`
"""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from voco_data.errors import InputError, VocoError
from voco_data.storage import RUN_DESCRIPTION, atomic
from voco_models.networks import (
    SAFETENSORS,
    Backbone,
    create_backbone,
    find_misfit,
    read_header,
)

FORMAT = 1
"""Version of the dictionaries in `checkpoint.pt` and `backbone.pt`."""
CHECKPOINT = "checkpoint.pt"
BACKBONE = "backbone.pt"
RUN_FILE = RUN_DESCRIPTION
FILES, DIGEST = "files", "digest"
"""Entries of `run.json`: digests of the files of a run that has ended, and of the other entries."""

BACKBONE_ENTRIES = frozenset(("name", "in_chans", "weights", "provenance"))
MAX_CHANNELS = 64
"""Channels of an image: 1 of CT, 3 of a colour image, or a few neighbouring slices."""
MAX_NAME = 200
"""Characters in the name of a backbone."""
_SHOWN = 60
"""Characters of a value in a message."""

_PROVENANCE: dict[str, tuple[Any, str]] = {
    "stage": (str, "a text"),
    "recipe": (dict, "values by name"),
    "stores": (list, "a list"),
    "specs": (dict, "values by name"),
    "selection": (dict | None, "values by name"),
    "seen_patients": (str | None, "a text"),
}
"""Type of an entry of the provenance, and the type in words."""

MOMENTS = 2
"""Tensors that AdamW keeps per trainable parameter."""
COPIES = 2
"""A new checkpoint is written completely before it replaces the last one."""
SPARE_BYTES = 16 * 2**20
"""Space for history, predictions, and the parts of a checkpoint that are no tensors."""


def save(path: Path, payload: dict[str, Any]) -> None:
    """Write tensors and plain values to `path`, completely or not at all, also at a power cut.

    Raises VocoError if it cannot be written, such as on a full disk; the old file then stays.
    """
    temporary = path.with_name(f".{path.name}.tmp")  # a fixed name, so killed runs leave one file
    try:
        with temporary.open("wb") as file:
            torch.save({"format": FORMAT, **payload}, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except (OSError, RuntimeError) as error:
        # After a write that failed, torch fails to close its archive, with an error of its own.
        cause = error if isinstance(error, OSError) else error.__context__
        if not isinstance(cause, OSError):
            raise
        raise VocoError(f"{path}: cannot write it ({cause.strerror})") from error
    finally:
        temporary.unlink(missing_ok=True)
    atomic.sync(path.parent)


def load(path: Path) -> dict[str, Any]:
    """Read a file of `save`, on the CPU, with `weights_only`. InputError if it cannot be read."""
    # torch reads a file that is no archive as a pickle, and fails with any exception in it.
    if path.is_file() and not zipfile.is_zipfile(path):
        raise InputError(f"{path}: expected a file of a voco run, cannot read it")
    try:
        payload = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise InputError(f"{path}: expected a file of a voco run, found none") from error
    except Exception as error:
        # An archive that was made by hand lets torch fail with any exception, such as KeyError.
        raise InputError(f"{path}: expected a file of a voco run, cannot read it") from error
    if (
        not isinstance(payload, dict)
        or type(payload.get("format")) is not int
        or payload["format"] != FORMAT
    ):
        raise InputError(f"{path}: expected format {FORMAT} of a voco run, got something else")
    return payload


def check_entries(
    path: Path,
    payload: Mapping[Any, Any],
    entries: Collection[str],
    *,
    optional: Collection[str] = (),
) -> None:
    """Raise InputError unless a file of `save` has these entries; it may lack the optional ones."""
    missing = sorted(set(entries) - set(payload))
    other = [key for key in payload if key not in {"format", *entries, *optional}]
    if missing or other:
        got = f"no {', '.join(missing)}" if missing else f"also {describe_value(other[0])}"
        raise InputError(
            f"{path}: expected the entries {', '.join(sorted(entries))}, got {got}; give a file of "
            "this version of voco"
        )


def check_provenance(path: Path, provenance: object) -> None:
    """Raise InputError unless the provenance in a file, and its parts, have the right types."""
    if not isinstance(provenance, dict):
        raise _refuse(path, "provenance", "values by name", provenance)
    for name, (types, expected) in _PROVENANCE.items():
        if name in provenance and not isinstance(provenance[name], types):
            raise _refuse(path, f"provenance.{name}", expected, provenance[name])
    stores, specs = provenance.get("stores", []), provenance.get("specs", {}).values()
    for name, parts in (("stores", stores), ("specs", specs)):
        for part in parts:
            if not isinstance(part, dict):
                raise _refuse(path, f"provenance.{name}", "values by name for each store", part)


def describe_value(value: object) -> str:
    """A value of a file for a message, shortened: it may be anything."""
    if isinstance(value, torch.Tensor):
        return f"a tensor {tuple(value.shape)}"
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}... ({type(value).__name__})"


def save_backbone(run: Path, backbone: Backbone, provenance: dict[str, Any]) -> Path:
    """Write `RUN/backbone.pt`; returns its path."""
    path = run / BACKBONE
    save(
        path,
        {
            "name": backbone.name,
            "in_chans": backbone.in_chans,
            "weights": backbone.state_dict(),
            "provenance": provenance,
        },
    )
    return path


def load_backbone(path: Path) -> tuple[Backbone, dict[str, Any]]:
    """The backbone of a run folder, a `backbone.pt` or an exported file, on the CPU.

    The second value is its provenance. Raises InputError if there is none, or if its weights have
    other names or shapes.
    """
    file = path / BACKBONE if path.is_dir() else path
    if file.suffix == SAFETENSORS and file.is_file():
        return _load_exported(file)
    payload = load(file)
    check_entries(file, payload, BACKBONE_ENTRIES)
    backbone = _build(file, payload["name"], payload["in_chans"])
    check_provenance(file, payload["provenance"])
    if not isinstance(payload["weights"], dict):
        raise _refuse(file, "weights", "a state dict", payload["weights"])
    misfit = find_misfit(backbone.state_dict(), payload["weights"])
    if misfit is not None:
        raise InputError(
            f"{file}: expected a backbone that voco wrote, with the weights of {backbone.name}, "
            f"but {misfit}; restore the file from a copy, or give another run"
        )
    backbone.load_state_dict(payload["weights"], strict=True)
    return backbone, payload["provenance"]


def _build(file: Path, name: object, in_chans: object, pretrained: bool | Path = False) -> Backbone:
    """The backbone with this name and number of channels, which were read from a file."""
    if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME or not name.isprintable():
        raise _refuse(file, "name", "the name of a backbone", name)
    if type(in_chans) is not int or not 1 <= in_chans <= MAX_CHANNELS:
        raise _refuse(file, "in_chans", f"a whole number from 1 to {MAX_CHANNELS}", in_chans)
    try:
        return create_backbone(name, in_chans=in_chans, pretrained=pretrained)
    except InputError as error:
        text = str(error)
        raise InputError(text if text.startswith(str(file)) else f"{file}: {text}") from error


def _load_exported(file: Path) -> tuple[Backbone, dict[str, Any]]:
    """The backbone of a file of `export_backbone`, by the card in its header."""
    card = read_header(file)
    try:
        name, in_chans, provenance = card["architecture"], card["in_chans"], card["provenance"]
    except KeyError as error:
        raise InputError(
            f"{file}: expected a backbone that voco exported, with its card in the header"
        ) from error
    check_provenance(file, provenance)
    return _build(file, name, in_chans, file), provenance


def _refuse(file: Path, field: str, expected: str, got: object) -> InputError:
    return InputError(
        f"{file}: {field}: expected {expected}, got {describe_value(got)}; restore the file from a "
        "copy, or give another run"
    )


def write_run(run: Path, description: dict[str, Any]) -> None:
    """Write `RUN/run.json` of a run that goes on, so without digests of its files.

    Makes the folder. Raises VocoError if it cannot be written.
    """
    values = {name: value for name, value in description.items() if name != DIGEST}
    replace_description(run, values | {FILES: None})


def replace_description(run: Path, values: dict[str, Any]) -> None:
    """Write `RUN/run.json`, as `save` does; makes the folder."""
    temporary = run / f".{RUN_FILE}.tmp"
    try:
        run.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n")
        atomic.sync(temporary)
        temporary.replace(run / RUN_FILE)
        atomic.sync(run)
    except OSError as error:
        raise VocoError(f"{run}: cannot write the run ({error.strerror})") from error


def read_run(run: Path) -> dict[str, Any]:
    """Read `RUN/run.json`. Raises InputError if `run` is no run folder."""
    try:
        description = json.loads((run / RUN_FILE).read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{run}: expected the folder of a voco run, with {RUN_FILE}") from error
    if not isinstance(description, dict):
        raise InputError(f"{run / RUN_FILE}: expected a JSON object")
    return description


def count_checkpoint_bytes(objective: nn.Module, *, moments: int = MOMENTS) -> int:
    """Bytes of the tensors in one checkpoint: weights, buffers, and the optimiser's `moments`."""
    state = sum(tensor.nbytes for tensor in objective.state_dict().values())
    trained = sum(p.nbytes for p in objective.parameters() if p.requires_grad)
    return int(state + moments * trained)


def check_disk_space(out: Path, size: int) -> None:
    """Raise VocoError unless there is space for two checkpoints of `size` bytes at `out`."""
    folder = next(path for path in (out, *out.absolute().parents) if path.exists())
    free, needed = shutil.disk_usage(folder).free, COPIES * size + SPARE_BYTES
    if free < needed:
        raise VocoError(
            f"{out}: {free / 1e9:.1f} GB free, {needed / 1e9:.1f} GB needed for checkpoints; "
            "free some space or give another --out"
        )
