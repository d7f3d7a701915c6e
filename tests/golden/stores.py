"""The stores and the label table of the golden loss curves: the same bytes on every platform.

    python -m tests.golden.stores FOLDER

Only integers are computed, so no rounding of a processor or of a library comes in. A volume is a
body with a liver, a spleen and two kidneys as ellipsoids, placed a little differently in each
patient, with noise; an injured organ holds a dark lesion, larger for a high grade.
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tests.support.small_finetune import grades_of, write_labels
from tests.support.small_stores import make_store
from voco_data.labels.targets import ORGAN_TARGETS
from voco_data.store.record import Record

SEED = 20260101
UNIT = 1000
"""Places and sizes below are in thousandths of the volume's sides."""

BODY = ((500, 500, 500), (900, 440, 470), 70)
"""Centre (z, y, x), half axes, and level (0 to 255) of an ellipsoid."""
PARTS = {
    "liver": (((620, 430, 300), (300, 240, 190), 130),),
    "spleen": (((650, 520, 720), (200, 150, 110), 140),),
    "kidney": (((380, 640, 330), (220, 110, 90), 160), ((400, 640, 680), (220, 110, 90), 160)),
}
LESION = {0: 0, 1: 350, 2: 600}
"""Half axes of a lesion by grade, in thousandths of the organ's."""
LESION_LEVEL = 85

Grid = tuple[int, int, int]

STORES: dict[str, tuple[int, Grid]] = {
    "pretrain_small": (8, (1, 48, 48)),
    "pretrain_full": (8, (32, 192, 192)),
    "finetune_small": (20, (4, 32, 32)),
    "finetune_half": (20, (48, 128, 128)),
}
"""Name -> number of volumes and grid (Z, Y, X)."""


def make_stores(root: Path) -> None:
    """Write every store to `root/<name>/`, and `root/labels.csv`."""
    for name, (count, grid) in STORES.items():
        grades = grades_of(count, SEED)
        make_store(
            root / name, draw_volumes(grades, grid), profile="golden", change=_with_some_organs
        )
    patients, _ = STORES["finetune_small"]
    ids = [f"patient-{index:03d}" for index in range(patients)]
    write_labels(root / "labels.csv", ids, grades_of(patients, SEED))


def _with_some_organs(record: Record) -> Record:
    """Boxes of the organs in every second row, as if it had a mask; patients move in them."""
    if record.row % 2:
        return record
    names = {"liver": ("liver",), "spleen": ("spleen",), "kidney": ("kidney_right", "kidney_left")}
    organs = {}
    for organ, parts in PARTS.items():
        for name, (centre, half_axes, _) in zip(names[organ], parts, strict=True):
            sides = zip(centre, half_axes, record.shape, strict=True)
            ends = [((c - a) * n / UNIT, (c + a) * n / UNIT) for c, a, n in sides]
            (z0, z1), (y0, y1), (x0, x1) = ends
            organs[name] = ((z0, y0, x0), (z1, y1, x1))
    return dataclasses.replace(record, organs=organs)


def draw_volumes(grades: npt.NDArray[np.int64], grid: Grid) -> npt.NDArray[np.uint8]:
    """uint8 (N, *grid): a patient for each row of `grades` (N, 3 organs)."""
    return np.stack(
        [_draw(np.random.default_rng([SEED, i]), g, grid) for i, g in enumerate(grades)]
    )


def _draw(
    rng: np.random.Generator, grades: npt.NDArray[np.int64], grid: Grid
) -> npt.NDArray[np.uint8]:
    moved = rng.integers(-40, 41, 3)
    levels = np.full(grid, 10, np.int64)
    _paint(levels, *BODY, moved=moved // 2)
    for organ, grade in zip(ORGAN_TARGETS.names, grades, strict=True):
        for centre, half_axes, level in PARTS[organ]:
            place = moved + rng.integers(-15, 16, 3)
            _paint(levels, centre, half_axes, level, moved=place)
            if grade:
                lesion = tuple(axis * LESION[int(grade)] // UNIT for axis in half_axes)
                _paint(levels, centre, lesion, LESION_LEVEL, moved=place)
    return (levels + rng.integers(0, 12, grid)).astype(np.uint8)


def _paint(
    levels: npt.NDArray[np.int64],
    centre: tuple[int, ...],
    half_axes: tuple[int, ...],
    level: int,
    *,
    moved: npt.NDArray[np.int64],
) -> None:
    """Set the voxels of an ellipsoid to `level`."""
    distance = np.zeros((1, 1, 1), np.int64)
    for axis, length in enumerate(levels.shape):
        middle = (2 * np.arange(length, dtype=np.int64) + 1) * UNIT // (2 * length)
        away = (middle - centre[axis] - int(moved[axis])) * UNIT // half_axes[axis]
        distance = distance + np.expand_dims(away**2, tuple({0, 1, 2} - {axis}))
    levels[distance <= UNIT**2] = level


if __name__ == "__main__":
    make_stores(Path(sys.argv[1]))
