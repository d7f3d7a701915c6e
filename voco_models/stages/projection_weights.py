"""The weights of 3D-to-2D networks in the file of a run, and the first weights of another run."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from voco_data.errors import InputError, VocoError
from voco_data.selection import SeenPatients, Split
from voco_data.storage import atomic
from voco_data.store import Store
from voco_models.networks import (
    find_bad_value,
    read_header,
    read_weights,
    write_safetensors,
)
from voco_models.stages.initial_weights import SCRATCH, read_seen_patients
from voco_models.stages.pretrain_series import measure_seen
from voco_models.stages.projection_recipes import ProjectionRecipe
from voco_models.training import checkpoint

log = logging.getLogger(__name__)

NETWORKS = "networks.safetensors"
"""Weights of both planes, and the provenance of the run."""
DIGEST_LENGTH = 12


@dataclass(frozen=True, slots=True)
class InitialProjection:
    """The first weights of the networks of both planes."""

    name: str
    """`scratch`, or `run:` and the digest of the file of weights."""
    weights: dict[str, Tensor] | None
    """By name in both networks; None for random weights."""
    seen: SeenPatients | None
    """Patients of the run that the weights are from; None if they are not known."""

    def add_seen(self, own: SeenPatients) -> SeenPatients | None:
        """The patients of these weights and of a run from them; None if they are not known."""
        if self.weights is None:
            return own
        return None if self.seen is None else self.seen.union(own)

    def check_seen(
        self, stores: Sequence[Store], split: Split | None, *, transductive: bool
    ) -> None:
        """Raise InputError if the weights have learnt from test patients of `split`."""
        if self.weights is None or split is None:
            return
        exposure = measure_seen(self.seen, stores, split.test)
        if exposure.seen and not transductive:
            raise InputError(
                f"init: the run has learnt from {exposure.seen} of the split's "
                f"{len(split.test)} test patients; give one that has not, or --transductive"
            )
        if exposure.seen != 0:
            log.warning("init: %s", exposure.sentence)

    def load_into(self, networks: Mapping[str, nn.Module]) -> None:
        """Set the weights of the networks. A head for another number of maps stays fresh."""
        if self.weights is None:
            return
        for plane, network in networks.items():
            own = network.state_dict()
            prefix = f"{plane}."
            given = {
                name.removeprefix(prefix): tensor
                for name, tensor in self.weights.items()
                if name.startswith(prefix)
            }
            fresh = {n for n, t in own.items() if n in given and given[n].shape != t.shape}
            others = {n for n in fresh if not n.startswith("head.")} | (own.keys() ^ given.keys())
            if others:
                raise InputError(
                    f"init: expected weights of the recipe's network, but {min(others)} differs; "
                    "give a run of the same network and widths"
                )
            for name, tensor in given.items():
                if (problem := find_bad_value(tensor)) is not None:
                    raise InputError(f"init: {plane}.{name} {problem}; give another run")
            network.load_state_dict({n: own[n] if n in fresh else given[n] for n in own})


def load_initial_projection(init: str | Path, recipe: ProjectionRecipe) -> InitialProjection:
    """The weights of `init`: `scratch`, or the folder of a run.

    Raises InputError if it is neither, or a run of another network.
    """
    if init == SCRATCH:
        return InitialProjection(SCRATCH, None, None)
    file = Path(init) / NETWORKS
    if not file.is_file():
        raise InputError(
            f"init: expected {SCRATCH} or the folder of a finished run of voco project with "
            f"{NETWORKS}, got {init}"
        )
    provenance = read_provenance(file)
    for name in ("network", "widths"):
        given, expected = provenance["recipe"].get(name), getattr(recipe, name)
        if given != (list(expected) if name == "widths" else expected):
            raise InputError(
                f"init: {init} has {name} {given}, the recipe {expected}; give a run of the same "
                "network, or change the recipe"
            )
    digest = hashlib.sha256(file.read_bytes()).hexdigest()[:DIGEST_LENGTH]
    return InitialProjection(
        f"run:{digest}", read_weights(file), read_seen_patients(file, provenance)
    )


def write_networks(
    run: Path, networks: Mapping[str, nn.Module], provenance: Mapping[str, Any]
) -> None:
    """Write the weights of both planes to `RUN/networks.safetensors`.

    Raises VocoError if they cannot be written; an old file then stays.
    """
    weights = {
        f"{plane}.{name}": tensor
        for plane, network in networks.items()
        for name, tensor in network.state_dict().items()
    }
    try:
        with atomic.replacing(run / NETWORKS) as temporary:
            write_safetensors(temporary, weights, json.dumps(dict(provenance)))
    except OSError as error:
        raise VocoError(f"{run}: cannot write the networks ({error.strerror})") from error


def read_provenance(file: Path) -> dict[str, Any]:
    """The provenance in a file of weights. Raises InputError if it has none of this stage."""
    provenance = read_header(file)
    if provenance.get("stage") != "project" or not isinstance(provenance.get("recipe"), dict):
        raise InputError(f"{file}: expected weights of voco project, got something else")
    checkpoint.check_provenance(file, provenance)
    return provenance
