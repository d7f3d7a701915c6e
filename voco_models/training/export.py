"""A backbone for other programs: its weights, and a card of how it was made.

The weights have the names of the library that publishes the network, timm or MONAI.

RUN/backbone.safetensors   weights; the card is in the header too
RUN/backbone.json          the card
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from voco_data.errors import VocoError
from voco_data.storage import atomic
from voco_models.networks import Backbone, write_safetensors
from voco_models.training.provenance import read_specs

WEIGHTS, CARD = "backbone.safetensors", "backbone.json"
FORMAT = 1
USE = (
    "Research use only. Not a medical device. The weights were learnt from CT volumes of patients; "
    "the terms of those data sets apply."
)


def export_backbone(
    run: Path,
    backbone: Backbone,
    provenance: dict[str, Any],
    *,
    step: int,
    scores: dict[str, Any] | None = None,
) -> Path:
    """Write weights and card of a backbone to `run`; returns the path of the weights.

    timm loads the weights with `timm.create_model(architecture, in_chans=..., num_classes=0,
    checkpoint_path=...)`; for MONAI see docs/method.md. Raises VocoError if they cannot be written.
    """
    card = make_card(backbone, provenance, step=step, scores=scores)
    text = json.dumps(card, indent=2, sort_keys=True) + "\n"
    try:
        with atomic.replacing(run / WEIGHTS) as temporary:
            write_safetensors(temporary, backbone.plain_weights(), text)
        atomic.write_text(run / CARD, text)
    except OSError as error:
        raise VocoError(f"{run}: cannot write the backbone ({error.strerror})") from error
    return run / WEIGHTS


def make_card(
    backbone: Backbone,
    provenance: dict[str, Any],
    *,
    step: int,
    scores: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """The card, as plain values: the network, its input, the data, the run, and the use.

    `scores` is None where none were computed.
    """
    spec = read_specs(provenance)[0]
    return {
        "format": FORMAT,
        "architecture": backbone.name,
        "in_chans": backbone.in_chans,
        "num_features": backbone.num_features,
        "memory_format": str(backbone.memory_format).removeprefix("torch."),
        "input": {
            "from_hu": [spec.window_low_hu, spec.window_low_hu + spec.window_width_hu],
            "to": [-1.0, 1.0],
            "axes": "rows grow to posterior, columns to left",
        },
        "step": step,
        "scores": scores,
        "use": USE,
        "stores": provenance["stores"],
        "specs": provenance["specs"],
        "split": provenance.get("split"),
        "selection": provenance.get("selection"),
        "recipe": provenance["recipe"],
        "provenance": provenance,
    }
