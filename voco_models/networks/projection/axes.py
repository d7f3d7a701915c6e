"""The axes of projection networks: their order, and the sizes that the networks take.

Volumes are (N, C, Z, W, D). The networks collapse the depth D, and give maps (N, C, Z, W).
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from voco_data.errors import InputError

Plane = Literal["coronal", "sagittal"]

Z_STRIDE = 4
"""Z must be a multiple: the deepest level has a quarter of the slices."""
W_STRIDE = 16
"""W must be a multiple: the deepest level has a sixteenth of the width."""
MIN_DEPTH = 64
"""The deepest level has floor(D / 16) depths, and its kernel without padding needs 4."""


def to_projection_axes(volumes: Tensor, plane: Plane) -> Tensor:
    """Volumes (N, C, Z, Y, X) in the order (N, C, Z, W, D) of the networks, as a view.

    `coronal` collapses Y: W is X, and a map is (Z, X). `sagittal` collapses X: W is Y, and a map is
    (Z, Y). Raises InputError for another plane.
    """
    if plane not in ("coronal", "sagittal"):
        raise InputError(f"projection: expected the plane coronal or sagittal, got {plane!r}")
    return volumes.transpose(-1, -2) if plane == "coronal" else volumes


def check_projection_volumes(volumes: Tensor, in_channels: int, *, training: bool) -> None:
    """Raise InputError unless every projection network can take `volumes` (N, C, Z, W, D).

    The networks share one rule so that they can be compared on the same volumes. In training, a
    batch must have at least two places on the deepest level, as batch normalisation requires.
    """
    if volumes.ndim != 5:
        raise InputError(
            "projection: expected volumes with the axes (N, C, Z, W, D), got shape "
            f"{tuple(volumes.shape)}; add the axes that are missing"
        )
    n, channels, z, w, d = volumes.shape
    if channels != in_channels:
        raise InputError(
            f"projection: expected volumes with {in_channels} channels, got {channels}; create the "
            f"network with in_channels={channels}"
        )
    if not _is_possible(z, w, d):
        raise InputError(
            f"projection: expected Z divisible by {Z_STRIDE}, W by {W_STRIDE} and a depth D of at "
            f"least {MIN_DEPTH}, got Z {z}, W {w}, D {d}; crop, pad or resample the volumes"
        )
    if training and n * (z // Z_STRIDE) * (w // W_STRIDE) < 2:
        raise InputError(
            "projection: expected at least 2 places on the deepest level to train with batch "
            f"normalisation, got {n} volume of Z {z}, W {w}; use a larger batch or larger volumes"
        )


def check_projection_grid(grid: tuple[int, int, int]) -> None:
    """Raise InputError unless the networks can collapse Y and X of volumes of `grid` (Z, Y, X)."""
    z, y, x = grid
    if not (_is_possible(z, x, y) and _is_possible(z, y, x)):
        raise InputError(
            f"projection: expected a grid with Z divisible by {Z_STRIDE}, and Y and X divisible by "
            f"{W_STRIDE} and at least {MIN_DEPTH}, got {grid}; use a store of the spec localise"
        )


def _is_possible(z: int, w: int, d: int) -> bool:
    return min(z, w) >= 1 and z % Z_STRIDE == 0 and w % W_STRIDE == 0 and d >= MIN_DEPTH
