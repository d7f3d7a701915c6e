"""The first weights of a backbone: fresh, ImageNet's, those of a file, or of a pretraining run."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from voco_data.errors import InputError
from voco_data.selection import SeenPatients
from voco_data.withdrawal import Withdrawals
from voco_models.networks import (
    LITE0,
    Backbone,
    create_backbone,
    create_imagenet_lite0,
    imagenet_lite0_installed,
    read_header,
    takes_volumes,
)
from voco_models.training import checkpoint

SCRATCH, IMAGENET = "scratch", "imagenet"
DIGEST_LENGTH = 12


@dataclass(frozen=True, slots=True)
class InitialWeights:
    """The initial weights of the backbone."""

    name: str
    """`scratch`, `imagenet`, or `run:` or `file:` and the digest of the file of weights."""
    weights: dict[str, Tensor] | None
    """State dict of the backbone; None for random weights."""
    provenance: dict[str, Any] | None
    """Provenance of the pretraining run, if any; also where a file of its export was given."""
    digest: str | None = None
    """SHA-256 of the weights, over the names, types, shapes and bytes of the tensors."""
    seen: SeenPatients | None = None
    """Patients of the pretraining run; None if they are not known."""

    @property
    def pretrained(self) -> bool:
        """Whether the weights may come from pretraining on scans."""
        return self.name not in (SCRATCH, IMAGENET)

    def add_seen(self, own: SeenPatients) -> SeenPatients | None:
        """The patients of these weights and of a run from them; None if they are not known."""
        if not self.pretrained:
            return own
        return None if self.seen is None else self.seen.union(own)

    def to_json(self) -> dict[str, Any]:
        """Name and digest, for the provenance of a run."""
        return {"name": self.name, "sha256": self.digest}


def load_initial_weights(init: str | Path, backbone: str) -> InitialWeights:
    """The weights of `init` for the backbone of this name.

    `init` is `scratch`, `imagenet`, the folder of a pretraining run, or a file: a state dict with
    the names of timm or MONAI in .safetensors or .pth, or the backbone.pt of a run. Raises
    InputError, of one line, if there are none, or if they are of another backbone.
    """
    if init == SCRATCH:
        create_backbone(backbone)
        return InitialWeights(SCRATCH, None, None)
    if init == IMAGENET:
        weights = _imagenet_backbone(backbone).state_dict()
        return InitialWeights(IMAGENET, weights, None, hash_weights(weights))
    path = Path(init)
    if path.is_dir() and (path / checkpoint.BACKBONE).is_file():
        return _from_run(path / checkpoint.BACKBONE, path, backbone)
    if path.is_file() and path.name == checkpoint.BACKBONE:
        return _from_run(path, path, backbone)
    if path.is_file():
        held = read_header(path).get("architecture")
        if held is not None and takes_volumes(held) != takes_volumes(backbone):
            raise _refuse(path, held, backbone)
        weights = create_backbone(backbone, pretrained=path).state_dict()
        provenance = read_header(path).get("provenance")
        if provenance is not None:
            checkpoint.check_provenance(path, provenance)
        return InitialWeights(
            name=f"file:{_hash_file(path)}",
            weights=weights,
            provenance=provenance,
            digest=hash_weights(weights),
            seen=None if provenance is None else read_seen_patients(path, provenance),
        )
    raise InputError(
        f"init: expected {SCRATCH}, {IMAGENET}, a file of weights, or the folder of a finished "
        f"pretraining run with {checkpoint.BACKBONE}, got {init}"
    )


def _imagenet_backbone(name: str) -> Backbone:
    """With the weights of an installed package where there is one, else with timm's."""
    if name == LITE0 and imagenet_lite0_installed():
        return create_imagenet_lite0()
    return create_backbone(name, pretrained=True)


def hash_weights(weights: dict[str, Tensor]) -> str:
    """SHA-256 of the names, types, shapes and bytes of tensors, in the order of the names."""
    content = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        content.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        content.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return content.hexdigest()


def _from_run(file: Path, given: Path, name: str) -> InitialWeights:
    backbone, provenance = checkpoint.load_backbone(file)
    _check_backbone(backbone, name, given)
    weights = backbone.state_dict()
    return InitialWeights(
        name=f"run:{_hash_file(file)}",
        weights=weights,
        provenance=provenance,
        digest=hash_weights(weights),
        seen=read_seen_patients(file, provenance),
    )


def read_seen_patients(path: Path, provenance: Mapping[str, Any]) -> SeenPatients | None:
    """The patients of the pretraining run with this provenance, in the folder `path` or its file.

    None if the folder does not tell, or tells of others.
    """
    run = path if path.is_dir() else path.parent
    selected = (provenance.get("selection") or {}).get("patients_digest")
    recorded = provenance.get("seen_patients", selected)
    seen = SeenPatients.read(run)
    if seen is None or recorded is None:
        return None
    is_of_run = Withdrawals.read(run).explains_patients(recorded, seen.digest)
    return seen if is_of_run else None


def _check_backbone(backbone: Backbone, name: str, given: Path) -> None:
    if takes_volumes(backbone.name) != takes_volumes(name):
        raise _refuse(given, backbone.name, name)
    if backbone.name != name or backbone.in_chans != 1:
        raise InputError(
            f"init: {given} holds {backbone.name} with {backbone.in_chans} channels, the recipe "
            f"needs {name} with 1; use the recipe that fits the run"
        )


def _refuse(given: Path, held: str, name: str) -> InputError:
    """The error for weights of a 3D network where a 2D network is needed, or the reverse."""
    takes = {True: "takes volumes", False: "takes slices"}
    needed = takes[takes_volumes(name)]
    return InputError(
        f"init: {given} holds {held}, which {takes[takes_volumes(held)]}, and the recipe needs "
        f"{name}, which {needed}; give a run of a backbone that {needed}"
    )


def _hash_file(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:DIGEST_LENGTH]
