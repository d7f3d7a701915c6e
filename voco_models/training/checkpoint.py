"""The files of a run. Writes are atomic and forced to disk; reading executes no code from a file.

RUN/checkpoint.pt   the state of a training, to resume it; see `train_state.py`
RUN/backbone.pt     a backbone's name and weights, from which another stage can start
RUN/run.json        stage, recipe and provenance, for people and for `voco evaluate`
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

from voco_data.errors import InputError, VocoError
from voco_data.storage import RUN_DESCRIPTION
from voco_models.networks import SAFETENSORS, Backbone, create_backbone, read_header

FORMAT = 1
"""Version of the dictionaries in `checkpoint.pt` and `backbone.pt`."""
CHECKPOINT = "checkpoint.pt"
BACKBONE = "backbone.pt"
RUN_FILE = RUN_DESCRIPTION

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
    _sync_folder(path.parent)


def load(path: Path) -> dict[str, Any]:
    """Read a file of `save`, on the CPU, with `weights_only`. InputError if it cannot be read."""
    # torch reads a file that is no archive as a pickle, and fails with any exception in it.
    if path.is_file() and not zipfile.is_zipfile(path):
        raise InputError(f"{path}: expected a file of a voco run, cannot read it")
    try:
        payload = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise InputError(f"{path}: expected a file of a voco run, found none") from error
    except (OSError, EOFError, RuntimeError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: expected a file of a voco run, cannot read it") from error
    if not isinstance(payload, dict) or payload.get("format") != FORMAT:
        raise InputError(f"{path}: expected format {FORMAT} of a voco run, got something else")
    return payload


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
    try:
        backbone = create_backbone(payload["name"], in_chans=payload["in_chans"])
        backbone.load_state_dict(payload["weights"], strict=True)
        return backbone, payload["provenance"]
    except (KeyError, RuntimeError) as error:
        raise InputError(f"{file}: expected a backbone that voco wrote, got other keys") from error


def _load_exported(file: Path) -> tuple[Backbone, dict[str, Any]]:
    """The backbone of a file of `export_backbone`, by the card in its header."""
    card = read_header(file)
    try:
        name, in_chans, provenance = card["architecture"], card["in_chans"], card["provenance"]
    except KeyError as error:
        raise InputError(
            f"{file}: expected a backbone that voco exported, with its card in the header"
        ) from error
    return create_backbone(name, in_chans=in_chans, pretrained=file), provenance


def write_run(run: Path, description: dict[str, Any]) -> None:
    """Write `RUN/run.json`; makes the folder. Raises VocoError if it cannot be written."""
    try:
        run.mkdir(parents=True, exist_ok=True)
        temporary = run / f".{RUN_FILE}.tmp"
        temporary.write_text(json.dumps(description, indent=2, sort_keys=True) + "\n")
        temporary.replace(run / RUN_FILE)
    except OSError as error:
        raise VocoError(f"{run}: cannot write the run ({error.strerror})") from error


def read_run(run: Path) -> dict[str, Any]:
    """Read `RUN/run.json`. Raises InputError if `run` is no run folder."""
    try:
        description = json.loads((run / RUN_FILE).read_text())
    except (OSError, ValueError) as error:
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


def _sync_folder(folder: Path) -> None:
    """Force a rename in `folder` to disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
