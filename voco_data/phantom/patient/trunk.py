"""The trunk: skin, muscle wall, the cavity inside it, the diaphragm and the lungs.

Lengths are those of a standard body (mm): origin on the body's axis at the height of the iliac
crests, x to the left, y to posterior, z to superior.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from voco_data.phantom.patient.points import F32, Bounds, Points
from voco_data.phantom.patient.shapes import Ellipsoid

# Half widths of the muscle wall at heights z, lateral and front to back.
_WALL_Z = (-260, -200, -150, -100, -50, 0, 60, 120, 200, 300, 380, 430)
_WALL_A = (150, 155, 163, 163, 155, 144, 138, 144, 152, 154, 150, 146)
_WALL_B = (80, 88, 95, 97, 93, 90, 90, 93, 101, 104, 93, 80)
# The cavity: half widths and the shift of its centre to posterior.
_CAVITY_Z = (-165, -140, -100, -50, 0, 60, 120, 200, 300, 380, 425)
_CAVITY_A = (20, 50, 75, 100, 114, 120, 127, 135, 134, 116, 40)
_CAVITY_B = (15, 40, 55, 62, 66, 71, 78, 86, 89, 70, 25)
_CAVITY_Y = (20, 15, 0, -12, -14, -11, -6, 0, 1, 8, 12)
_CORNERS = 0.28
"""How far the cross-section leans from an ellipse to a rounded box."""
_LEG_TOP, _LEG_FREE = -178.0, -206.0
"""Heights where the torso starts to part into thighs, and where it has."""
_FAR_MM = 1000.0


def interpolate(z: F32, heights: Sequence[float], values: Sequence[float]) -> F32:
    """`values` given at `heights`, at `z`."""
    return np.interp(z, heights, values).astype(np.float32)


def _oval(p: Points, a: F32, b: F32, y: F32) -> F32:
    """Distance, within about a fifth, to a rounded oval with half widths a(z), b(z) at y(z)."""
    u2 = (p.x / a) ** 2
    v2 = ((p.y - y) / b) ** 2
    # The corner term is capped: far outside it would turn the sign.
    r2 = u2 + v2 - np.float32(_CORNERS) * np.minimum(u2, 2) * np.minimum(v2, 2)
    distance: F32 = (np.sqrt(np.maximum(r2, 0)) - 1) * ((a + b) / 2)
    return distance


@dataclass(frozen=True, slots=True)
class Trunk:
    """The sizes of one trunk that the whole-body scale does not say."""

    fat_mm: float
    """Thickness of the fat under the skin at the belly's height."""
    right_dome_mm: float
    """Height of the top of the right half of the diaphragm."""
    left_dome_mm: float
    """The same on the left."""
    mediastinum_mm: float
    """Half width between the lungs."""

    @property
    def half_width_mm(self) -> float:
        """The widest half width of the body, skin included."""
        return max(_WALL_A) + self.fat_mm

    @property
    def half_depth_mm(self) -> float:
        """The deepest half depth of the body, skin included."""
        return max(_WALL_B) + self.fat_mm

    def fat_at(self, z: F32) -> F32:
        """Thickness of fat under the skin at height z."""
        return interpolate(z, (-200, -80, 0, 100, 250, 400), (0.8, 1.1, 1.0, 0.8, 0.5, 0.4)) * (
            np.float32(self.fat_mm)
        )

    def dome_height(self, p: Points) -> F32:
        """Height (1, Y, X) of the diaphragm over the plane."""
        side = np.clip((p.x + 40) / 80, 0, 1)
        top = self.right_dome_mm + (self.left_dome_mm - self.right_dome_mm) * side
        top = top - 10 * np.exp(-((p.x / 30) ** 2))
        lateral = np.maximum(np.abs(p.x) - 55, 0) / 65
        back = np.maximum(p.y + 15, 0) / 85
        front = np.maximum(-15 - p.y, 0) / 75
        height: F32 = (top - 60 * lateral**2 - 48 * back**2 - 32 * front**2).astype(np.float32)
        return height


@dataclass(frozen=True, slots=True)
class Wall:
    """Everything inside the muscle wall moved out by `margin_mm` and `fat` times the fat."""

    trunk: Trunk
    margin_mm: float = 0.0
    fat: float = 0.0

    def bounds(self) -> Bounds:
        """Box over all heights: the body goes on beyond every scan."""
        more = self.margin_mm + self.fat * 1.2 * self.trunk.fat_mm + 12
        x, y = max(_WALL_A) + more, max(_WALL_B) + more
        return ((-x, -y, -_FAR_MM), (x, y, _FAR_MM))

    def distance(self, p: Points) -> F32:
        """The torso above, two thighs below."""
        more = np.float32(self.margin_mm) + np.float32(self.fat) * self.trunk.fat_at(p.z)
        a = interpolate(p.z, _WALL_Z, _WALL_A) + more
        b = interpolate(p.z, _WALL_Z, _WALL_B) + more
        torso = _oval(p, a, b, np.zeros_like(a))
        if float(p.z.min()) > _LEG_TOP:
            return torso
        side = np.abs(p.x) - np.float32(84)
        thigh = np.sqrt(side * side + (p.y - 4) ** 2) - (np.float32(70) + more)
        depth = (np.float32(_LEG_TOP) - p.z) / np.float32(_LEG_TOP - _LEG_FREE)
        share: F32 = np.clip(depth, 0, 1)
        body: F32 = torso * (1 - share) + thigh * share
        return body


@dataclass(frozen=True, slots=True)
class Cavity:
    """Chest, belly and pelvis inside the wall, moved in by `inset_mm`."""

    inset_mm: float = 0.0

    def bounds(self) -> Bounds:
        """Box of the profile."""
        x, y = max(_CAVITY_A) - self.inset_mm, max(_CAVITY_B) + 16 - self.inset_mm
        return ((-x, -y, _CAVITY_Z[0]), (x, y, _CAVITY_Z[-1]))

    def distance(self, p: Points) -> F32:
        """Oval of the profile, closed above and below."""
        a = interpolate(p.z, _CAVITY_Z, _CAVITY_A)
        b = interpolate(p.z, _CAVITY_Z, _CAVITY_B)
        oval = _oval(p, a, b, interpolate(p.z, _CAVITY_Z, _CAVITY_Y))
        ends = np.maximum(np.float32(_CAVITY_Z[0]) - p.z, p.z - np.float32(_CAVITY_Z[-1]))
        distance: F32 = np.maximum(oval, ends) + np.float32(self.inset_mm)
        return distance


@dataclass(frozen=True, slots=True)
class BelowDiaphragm:
    """All that lies `inset_mm` or more below the diaphragm."""

    trunk: Trunk
    inset_mm: float = 0.0

    def bounds(self) -> Bounds:
        """As wide and deep as the body."""
        x, y = self.trunk.half_width_mm, self.trunk.half_depth_mm
        top = max(self.trunk.right_dome_mm, self.trunk.left_dome_mm)
        return ((-x, -y, -_FAR_MM), (x, y, top))

    def distance(self, p: Points) -> F32:
        """Height over the dome, shortened for its mean slope."""
        return (p.z - self.trunk.dome_height(p)) * np.float32(0.8) + np.float32(self.inset_mm)


@dataclass(frozen=True, slots=True)
class Lungs:
    """Both lungs: inside the cavity, above the diaphragm, beside the mediastinum."""

    trunk: Trunk

    def bounds(self) -> Bounds:
        """Box of the cavity down to the lowest recess."""
        low, high = Cavity().bounds()
        return ((low[0], low[1], 40.0), high)

    def distance(self, p: Points) -> F32:
        """Maximum of the limiting surfaces."""
        middle = Ellipsoid((6, 2, 300), (self.trunk.mediastinum_mm, 110, 260))
        distance = np.maximum(Cavity(3).distance(p), -BelowDiaphragm(self.trunk).distance(p))
        lungs: F32 = np.maximum(distance, -middle.distance(p))
        return lungs


@dataclass(frozen=True, slots=True)
class Couch:
    """The couch top: a shallow trough `gap_mm` under the back."""

    trunk: Trunk
    thickness_mm: float = 4.0
    gap_mm: float = 6.0

    def bounds(self) -> Bounds:
        """As long as any scan."""
        y = self._bottom_mm
        return ((-215, y - 70, -_FAR_MM), (215, y + 4, _FAR_MM))

    @property
    def _bottom_mm(self) -> float:
        return self.trunk.half_depth_mm + self.gap_mm

    def distance(self, p: Points) -> F32:
        """A sheet bent on a circle of 450 mm, cut at the sides."""
        radius = np.float32(450)
        away = np.sqrt(p.x**2 + (p.y - np.float32(self._bottom_mm) + radius) ** 2) - radius
        sheet = np.abs(away) - np.float32(self.thickness_mm / 2)
        plane = np.maximum(sheet, np.abs(p.x) - 210)
        cut: F32 = np.maximum(plane, p.z - np.float32(_FAR_MM))
        return cut
