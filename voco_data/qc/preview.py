"""Previews for visual checks: three planes of a whole scan, its box and its HU histogram."""

from __future__ import annotations

import base64
import io
import json
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from voco_data.storage import PREVIEWS_FOLDER, ObjectReader, WritableStorage
from voco_data.volumes import Box, HuHistogram, Triple

PLANES = ("axial", "coronal", "sagittal")
SLOT_PX = 192
"""Side of a slot. A picture is three square slots side by side, a plane centred in each."""
JPEG_QUALITY = 66
"""About 12 kB for a scan, so that a page can contain a thousand."""
WINDOW_HU = (-150, 250)
"""The soft-tissue window of the planes."""
FORMAT = 1
"""Version of the JSON in a preview's comment."""

Rectangle = tuple[float, float, float, float]
"""Left, top, width, height in px of the picture."""


@dataclass(frozen=True, slots=True)
class Preview:
    """A preview file. Its picture is read on request, because a run may have many."""

    root: ObjectReader
    key: str
    """Key of the JPEG. The box is not drawn into it, because JPEG would blur the line."""
    boxes: tuple[Rectangle, ...]
    """The box in each of PLANES."""
    histogram: tuple[int, ...]
    """HU counts inside the box, in the bins of voco_data.volumes.hu_histogram."""

    def data_uri(self) -> str:
        """The picture as a URI that a page embeds."""
        return f"data:image/jpeg;base64,{base64.b64encode(self.root.read(self.key)).decode()}"


def key_of(input_digest: str) -> str:
    """Key of the preview of an input under a root."""
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
    histogram: HuHistogram,
) -> None:
    """Write axial, coronal and sagittal planes through the centre of `box`, with box and histogram.

    `hu` is canonical (z, y, x). Axial: anterior up, patient's right on the left. Coronal and
    sagittal: head up; sagittal as seen from the patient's left, anterior on the left. Box and
    histogram are JSON in the comment of the JPEG, so that one file contains all.
    """
    z, y, x = ((start + stop) // 2 for start, stop in zip(box.start, box.stop, strict=True))
    sheet = Image.new("L", (len(PLANES) * SLOT_PX, SLOT_PX))
    boxes = [
        _draw_plane(sheet, 0, hu[z], spacing_mm, box, rows=1, columns=2),
        _draw_plane(sheet, 1, hu[::-1, y, :], spacing_mm, box, rows=0, columns=2),
        _draw_plane(sheet, 2, hu[::-1, :, x], spacing_mm, box, rows=0, columns=1),
    ]
    note = {"format": FORMAT, "boxes": boxes, "histogram": histogram.counts}
    buffer = io.BytesIO()
    comment = json.dumps(note, separators=(",", ":")).encode()
    sheet.save(buffer, "JPEG", quality=JPEG_QUALITY, comment=comment)
    root.write(key, buffer.getvalue())


def read(root: ObjectReader, key: str) -> Preview | None:
    """The preview under `key`; None if there is none of this FORMAT."""
    try:
        with Image.open(io.BytesIO(root.read(key))) as image:  # Pillow reads the header only
            note = json.loads(image.info["comment"])
        if note["format"] != FORMAT:
            return None
        boxes = tuple((a, b, c, d) for a, b, c, d in note["boxes"])
        return Preview(root, key, boxes, tuple(int(n) for n in note["histogram"]))
    except (OSError, KeyError, TypeError, ValueError):
        return None


def is_whole(root: ObjectReader, input_digest: str) -> bool:
    """Whether the preview of an input is there, and its picture can be decoded to its end."""
    key = key_of(input_digest)
    if read(root, key) is None:
        return False
    try:
        with Image.open(io.BytesIO(root.read(key))) as image:
            image.load()
    except OSError:
        return False
    return True


def _draw_plane(
    sheet: Image.Image,
    slot: int,
    plane: npt.NDArray[np.int16],
    spacing_mm: Triple,
    box: Box,
    *,
    rows: int,
    columns: int,
) -> Rectangle:
    """Draw one plane into its slot in true proportions; returns the rectangle of its box.

    `rows` and `columns` are the canonical axes of the plane's rows and columns.
    """
    height_mm = plane.shape[0] * spacing_mm[rows]
    width_mm = plane.shape[1] * spacing_mm[columns]
    scale = SLOT_PX / max(height_mm, width_mm)
    width, height = max(1, round(width_mm * scale)), max(1, round(height_mm * scale))
    image = Image.fromarray(_to_grey(plane))
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


def _to_grey(plane: npt.NDArray[np.int16]) -> npt.NDArray[np.uint8]:
    """Map WINDOW_HU to 0..255, in int16: with floats it takes twice the time."""
    low_hu, high_hu = WINDOW_HU
    grey = np.clip(plane, low_hu, high_hu, out=np.empty(plane.shape, np.int16))
    grey -= low_hu
    grey *= 51  # 400 HU times 51 / 80 is 255; 400 * 51 fits int16
    grey //= 80
    return grey.astype(np.uint8)
