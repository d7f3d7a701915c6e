"""A small picture of a whole scan in three planes, with its box and HU: what a person checks."""

from __future__ import annotations

import base64
import io
import json
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from voco_data.storage.base import ObjectReader, WritableStorage
from voco_data.storage.root import PREVIEWS_FOLDER
from voco_data.volumes import hu_histogram
from voco_data.volumes.box import Box
from voco_data.volumes.geometry import Triple

PLANES = ("axial", "coronal", "sagittal")
SLOT_PX = 192
"""A picture is three square slots side by side, a plane in the middle of each."""
QUALITY = 66
"""JPEG quality: about 12 kB a scan, so that a page can hold a thousand."""
LOW_HU, HIGH_HU = -150, 250
SAMPLES = 64
"""Values along each axis of the box that are counted for the histogram, at most twice as many."""
FORMAT = 1

Rectangle = tuple[float, float, float, float]
"""Left, top, width, height in px of the picture."""


@dataclass(frozen=True, slots=True)
class Preview:
    """What a preview file says of its scan."""

    root: ObjectReader
    key: str
    """A JPEG, without the box: a line would blur in it. Not kept: a run may have many."""
    boxes: tuple[Rectangle, ...]
    """The box in each of PLANES."""
    histogram: tuple[int, ...]
    """HU counts inside the box, in the bins of voco_data.volumes.hu_histogram."""

    def data_uri(self) -> str:
        """The picture as a page holds it."""
        return f"data:image/jpeg;base64,{base64.b64encode(self.root.read(self.key)).decode()}"


def key_of(input_digest: str) -> str:
    """Where the preview of a decoded input lies under a root."""
    return f"{PREVIEWS_FOLDER}/{input_digest[:2]}/{input_digest}.jpg"


def digest_of(key: str) -> str | None:
    """The input digest whose preview has this key; None for other objects."""
    name = key.rpartition("/")[2]
    return name.removesuffix(".jpg") if name.endswith(".jpg") else None


def write(
    root: WritableStorage,
    key: str,
    hu: npt.NDArray[np.int16],
    spacing_mm: Triple,
    box: Box,
) -> None:
    """Write axial, coronal and sagittal planes through the box's centre, the box and the HU.

    `hu` is canonical (z, y, x). Axial: anterior up, patient's right on the left. Coronal and
    sagittal: head up; sagittal looks from the patient's left, anterior on the left. One file:
    box and histogram are JSON in the JPEG's comment, so they never part from their picture.
    """
    z, y, x = ((a + b) // 2 for a, b in zip(box.start, box.stop, strict=True))
    sheet = Image.new("L", (len(PLANES) * SLOT_PX, SLOT_PX))
    boxes = [
        _place(sheet, 0, hu[z], spacing_mm, box, rows=1, columns=2),
        _place(sheet, 1, hu[::-1, y, :], spacing_mm, box, rows=0, columns=2),
        _place(sheet, 2, hu[::-1, :, x], spacing_mm, box, rows=0, columns=1),
    ]
    note = {"format": FORMAT, "boxes": boxes, "histogram": hu_histogram.count(sample(hu, box))}
    buffer = io.BytesIO()
    comment = json.dumps(note, separators=(",", ":")).encode()
    sheet.save(buffer, "JPEG", quality=QUALITY, comment=comment)
    root.write(key, buffer.getvalue())


def read(root: ObjectReader, key: str) -> Preview | None:
    """The preview under `key`; None if there is none that this version wrote."""
    try:
        with Image.open(io.BytesIO(root.read(key))) as image:  # reads the head alone
            note = json.loads(image.info["comment"])
        if note["format"] != FORMAT:
            return None
        boxes = tuple((a, b, c, d) for a, b, c, d in note["boxes"])
        return Preview(root, key, boxes, tuple(int(n) for n in note["histogram"]))
    except (OSError, KeyError, TypeError, ValueError):
        return None


def _place(
    sheet: Image.Image,
    slot: int,
    plane: npt.NDArray[np.int16],
    spacing_mm: Triple,
    box: Box,
    *,
    rows: int,
    columns: int,
) -> Rectangle:
    """Put one plane into its slot in true proportions, and say where its box is.

    `rows` and `columns` name the plane's canonical axes.
    """
    height_mm = plane.shape[0] * spacing_mm[rows]
    width_mm = plane.shape[1] * spacing_mm[columns]
    scale = SLOT_PX / max(height_mm, width_mm)
    width, height = max(1, round(width_mm * scale)), max(1, round(height_mm * scale))
    image = Image.fromarray(_grey(plane))
    left, top = slot * SLOT_PX + (SLOT_PX - width) // 2, (SLOT_PX - height) // 2
    sheet.paste(image.resize((width, height), Image.Resampling.BILINEAR), (left, top))
    per_row, per_column = height / plane.shape[0], width / plane.shape[1]
    first_row = box.start[rows]
    if rows == 0:  # head up: row 0 of the picture is the highest slice
        first_row = plane.shape[0] - box.stop[rows]
    return (
        round(left + box.start[columns] * per_column, 1),
        round(top + first_row * per_row, 1),
        round((box.stop[columns] - box.start[columns]) * per_column, 1),
        round((box.stop[rows] - box.start[rows]) * per_row, 1),
    )


def _grey(plane: npt.NDArray[np.int16]) -> npt.NDArray[np.uint8]:
    """The soft-tissue window on 0 to 255, in int16: floats would cost twice the time."""
    grey = np.clip(plane, LOW_HU, HIGH_HU, out=np.empty(plane.shape, np.int16))
    grey -= LOW_HU
    grey *= 51  # 400 HU times 51 / 80 is 255; 400 * 51 fits int16
    grey //= 80
    return grey.astype(np.uint8)


def sample(hu: npt.NDArray[np.int16], box: Box) -> npt.NDArray[np.int16]:
    """Every n-th voxel of the box along each axis: touching all would cost more than the read."""
    cut = zip(box.start, box.stop, strict=True)
    z, y, x = (slice(a, b, max(1, (b - a) // SAMPLES)) for a, b in cut)
    return hu[z, y, x]
