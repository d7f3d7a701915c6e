"""The pins of a retraining: what it learns from, in files that are written before it trains.

RUN/pins.json           stores, digests, the choice of the backbone; written last
RUN/rows.json           the rows of the stores, see `voco_data.selection.PinnedRows`
RUN/split.json          the split
RUN/labels.csv          the labels of the stores' patients, under the ids of the stores
RUN/image_labels.csv    the labels of images, if there are any

A retraining that is retried uses its pins, whatever came into the archive since.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from voco_data.errors import InputError, VocoError
from voco_data.labels import ImageLabels, Labels, write_image_labels, write_labels
from voco_data.selection import PinnedRows, Split, write_split
from voco_data.storage import atomic

PINS, ROWS, SPLIT = "pins.json", "rows.json", "split.json"
LABELS, IMAGE_LABELS = "labels.csv", "image_labels.csv"
FORMAT, VERSION = "voco retraining", 1


@dataclass(frozen=True, slots=True)
class BackboneChoice:
    """The backbone of a retraining."""

    folder: str
    """Folder of its pretraining, relative to RUNS."""
    pretrains: bool
    """Whether the retraining makes it."""
    new_share: float | None
    """Share of the series to pretrain on that the champion's backbone has not learnt from; None
    without a champion, or if its patients are not known."""
    reason: str


@dataclass(frozen=True, slots=True)
class RetrainingPins:
    """What a retraining is pinned to."""

    folder: Path
    """The folder of the retraining."""
    stores: Mapping[str, str]
    """Folder or URL of the store by stage: `pretrain` and `finetune`."""
    digests: Mapping[str, str]
    """Of rows, labels, labels of images and recipes."""
    backbone: BackboneChoice
    patients: int
    """Patients with labels in the store for fine-tuning."""
    unlabelled: int
    """Patients of that store who are left out, without labels."""
    pinned: str = ""
    """When, UTC, ISO 8601; empty in pins of older versions."""

    @property
    def rows(self) -> Path:
        """The file of pinned rows."""
        return self.folder / ROWS

    @property
    def split(self) -> Path:
        """The pinned split."""
        return self.folder / SPLIT

    @property
    def labels(self) -> Path:
        """The pinned labels."""
        return self.folder / LABELS

    @property
    def image_labels(self) -> Path | None:
        """The pinned labels of images."""
        path = self.folder / IMAGE_LABELS
        return path if path.exists() else None

    @property
    def init(self) -> str:
        """Folder of the backbone."""
        return str(self.folder.parent / self.backbone.folder)


def read_pins(run: Path) -> RetrainingPins | None:
    """The pins of a retraining that began; None if it did not. InputError if they are damaged."""
    path = run / PINS
    try:
        data = json.loads(path.read_text())
        if (data.pop("format"), data.pop("version")) != (FORMAT, VERSION):
            raise ValueError("another format or version")
        backbone = BackboneChoice(**data.pop("backbone"))
        return RetrainingPins(folder=run, backbone=backbone, **data)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path}: expected the pins of a retraining, cannot read them; start another retraining"
        ) from error


def write_pins(
    pins: RetrainingPins,
    rows: PinnedRows,
    split: Split,
    labels: Labels,
    images: ImageLabels | None,
) -> None:
    """Write all files of the pins, `pins.json` last. VocoError if one cannot be written."""
    values = asdict(pins) | {"format": FORMAT, "version": VERSION}
    del values["folder"]
    try:
        rows.write(pins.rows)
        write_split(pins.split, split)
        write_labels(pins.labels, labels)
        if images is not None:
            write_image_labels(pins.folder / IMAGE_LABELS, images)
        atomic.write_text(pins.folder / PINS, json.dumps(values, indent=1) + "\n")
    except OSError as error:
        raise VocoError(f"{pins.folder}: cannot write the pins ({error.strerror})") from error
