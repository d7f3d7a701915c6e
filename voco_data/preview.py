"""A small picture of a whole scan in three planes, with its box drawn: what a person checks."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from voco_data import atomic
from voco_data.box import Box
from voco_data.geometry import Triple

FOLDER = "previews"
PANEL_PX = 144
LOW_HU, HIGH_HU = -150, 250
BOX_COLOUR = (255, 176, 0)


def path_of(root: Path, input_digest: str) -> Path:
    """Where the preview of a decoded input lies under a root."""
    return root / FOLDER / input_digest[:2] / f"{input_digest}.png"


def write(path: Path, hu: npt.NDArray[np.int16], spacing_mm: Triple, box: Box) -> None:
    """Write axial, coronal and sagittal planes through the box's centre as one PNG.

    `hu` is canonical (z, y, x). Axial: anterior up, patient's right on the left. Coronal and
    sagittal: head up; sagittal looks from the patient's left, anterior on the left.
    """
    centre = [(a + b) // 2 for a, b in zip(box.start, box.stop, strict=True)]
    panels = [
        _panel(hu[centre[0]], spacing_mm, box, rows=1, columns=2),
        _panel(hu[::-1, centre[1], :], spacing_mm, box, rows=0, columns=2),
        _panel(hu[::-1, :, centre[2]], spacing_mm, box, rows=0, columns=1),
    ]
    sheet = Image.new("RGB", (sum(p.width for p in panels) + 8, PANEL_PX))
    left = 0
    for panel in panels:
        sheet.paste(panel, (left, (PANEL_PX - panel.height) // 2))
        left += panel.width + 4
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    atomic.write_bytes(path, buffer.getvalue())


def _panel(
    plane: npt.NDArray[np.int16], spacing_mm: Triple, box: Box, *, rows: int, columns: int
) -> Image.Image:
    """One plane in true proportions; `rows` and `columns` name its canonical axes."""
    grey = np.clip((plane.astype(np.float32) - LOW_HU) * (255 / (HIGH_HU - LOW_HU)), 0, 255)
    height_mm = plane.shape[0] * spacing_mm[rows]
    width_mm = plane.shape[1] * spacing_mm[columns]
    scale = PANEL_PX / max(height_mm, width_mm)
    size = (max(1, round(width_mm * scale)), max(1, round(height_mm * scale)))
    image = Image.fromarray(grey.astype(np.uint8)).resize(size, Image.Resampling.BOX).convert("RGB")
    top, bottom = box.start[rows] * spacing_mm[rows], box.stop[rows] * spacing_mm[rows]
    if rows == 0:  # drawn head up
        top, bottom = height_mm - bottom, height_mm - top
    left, right = box.start[columns] * spacing_mm[columns], box.stop[columns] * spacing_mm[columns]
    corners = [round(v * scale) for v in (left, top, right, bottom)]
    corners = [min(c, s - 1) for c, s in zip(corners, (*size, *size), strict=True)]
    ImageDraw.Draw(image).rectangle(corners, outline=BOX_COLOUR)
    return image
