"""Files of weights: safetensors, or a state dict of `torch.save`. Reading executes no code.

No other module imports safetensors.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from voco_data.errors import InputError
from voco_models.networks.weight_checks import find_bad_value

SAFETENSORS = ".safetensors"
WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model")
"""Entries of a training checkpoint in which timm keeps its state dict, in timm's order."""


def read_weights(path: Path) -> dict[str, Tensor]:
    """The state dict of a file, on the CPU: `.safetensors`, or anything that `torch.save` wrote.

    Raises InputError if there is no such file, or if it holds anything but tensors.
    """
    if not path.is_file():
        raise InputError(f"weights: expected a file, found none at {path}")
    weights: Any
    try:
        if path.suffix == SAFETENSORS:
            weights = safetensors.torch.load_file(path)
        else:
            weights = _load_torch(path)
    except (OSError, EOFError, safetensors.SafetensorError, RuntimeError) as error:
        raise _unreadable(path) from error
    for name in WRAPPERS:
        if isinstance(weights, dict) and isinstance(weights.get(name), dict):
            weights = weights[name]
            break
    if not isinstance(weights, dict) or not all(isinstance(t, Tensor) for t in weights.values()):
        raise InputError(f"{path}: expected a state dict, tensors by name, got something else")
    return {str(name).removeprefix("module."): tensor for name, tensor in weights.items()}


def load_matching(network: nn.Module, name: str, weights: Mapping[str, Tensor], file: Path) -> None:
    """Load a state dict into `network`. Counters of batches may be missing, as in old files.

    Raises InputError if any other name or shape differs, or a value is not finite. The message has
    `file`, and `name`, that of the backbone.
    """
    own = network.state_dict()
    counters = {key for key in own if key.endswith("num_batches_tracked")}
    differences = {
        "is missing": sorted(set(own) - set(weights) - counters),
        "is not of this network": sorted(set(weights) - set(own)),
        "has another shape": sorted(
            key for key in set(own) & set(weights) if own[key].shape != weights[key].shape
        ),
    }
    for what, keys in differences.items():
        if keys:
            more = f", and {len(keys) - 1} more" if len(keys) > 1 else ""
            raise InputError(
                f"{file}: expected weights of the backbone {name}, but {keys[0]} {what}{more}; "
                "give the weights of this backbone, or another backbone"
            )
    for key, tensor in weights.items():
        if (problem := find_bad_value(tensor)) is not None:
            raise InputError(f"{file}: expected finite weights, but {key} {problem}; give others")
    network.load_state_dict({**{key: own[key] for key in counters}, **weights}, strict=True)


def write_safetensors(path: Path, weights: Mapping[str, Tensor], text: str) -> None:
    """Write tensors to `path`, with `text` in the header. OSError if it cannot be written."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    path.write_bytes(safetensors.torch.save(tensors, metadata={"voco": text}))


def read_header(path: Path) -> dict[str, Any]:
    """The JSON object in the header of a file of `write_safetensors`; empty for any other file.

    Raises InputError if the file cannot be read.
    """
    if path.suffix != SAFETENSORS:
        return {}
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get("voco", "{}")
    except (OSError, safetensors.SafetensorError) as error:
        raise _unreadable(path) from error
    try:
        header = json.loads(text)
    except ValueError as error:
        raise InputError(f"{path}: expected a JSON object in the header, got other text") from error
    return header if isinstance(header, dict) else {}


def _load_torch(path: Path) -> Any:
    """What `torch.save` wrote, as an archive or in the older form of a pickle."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # Torch's own unpickler raises any kind of exception on bytes that are no pickle.
        raise _unreadable(path) from error


def _unreadable(path: Path) -> InputError:
    return InputError(
        f"{path}: expected weights in {SAFETENSORS} or a state dict of torch.save, cannot read it; "
        "files with other objects are refused, as reading them could run code"
    )
