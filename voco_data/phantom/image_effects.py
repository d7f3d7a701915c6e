"""What a scanner and its reconstruction make of a noise-free image: kernel, grain, streaks."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, gaussian_filter1d

from voco_data.phantom.patient.points import F32
from voco_data.phantom.patient.pose import Scan, Scanner

OUTSIDE_HU = -1024.0
"""Where the reconstruction has no data."""
_ANGLES = 360
_STREAK_REACH_MM = 120.0


def reconstruct(hu: F32, scan: Scan, streak_sources_mm: tuple[tuple[float, float], ...]) -> F32:
    """The image (z, y, x) as the scan's scanner reconstructs it, noise and streaks included.

    The kernel blurs in the plane, or sharpens by adding what a blur takes away. Noise is white
    noise of a grain, stronger in the middle of the image. Streaks spread from the (x, y)
    of `streak_sources_mm`, or from the middle of the image. Cupping darkens the middle of the body.
    """
    scanner = scan.scanner or Scanner()
    rng = np.random.default_rng(scan.noise_seed)
    blur = scanner.blur_mm / scan.pixel_mm
    image: F32 = gaussian_filter(hu, (0, blur, blur), output=np.float32)
    if scanner.sharpening:
        wide = 1.0 / scan.pixel_mm + blur
        image += scanner.sharpening * (image - gaussian_filter(image, (0, wide, wide)))
    y = scan.y_mm - scan.y_mm.mean()
    x = scan.x_mm - scan.x_mm.mean()
    half = scan.pixel_mm * scan.columns / 2
    radius = np.hypot(y[:, None], x[None, :]).astype(np.float32) / np.float32(half)
    image += _grain(rng, scan, scanner) * (0.7 + 0.6 * np.exp(-4 * radius**2))
    if scanner.cupping_hu:
        body = image > -300
        image -= body * (scanner.cupping_hu * np.exp(-3 * radius**2))
    if scanner.streaks_hu:
        image += np.float32(scanner.streaks_hu) * _streaks(rng, scan, streak_sources_mm)
    if scanner.round_field:
        image[:, radius > 1] = OUTSIDE_HU
    return image


def _grain(rng: np.random.Generator, scan: Scan, scanner: Scanner) -> F32:
    """Noise of the scan's standard deviation, correlated over `grain_mm` in the plane."""
    size = scanner.grain_mm / scan.pixel_mm
    noise = rng.standard_normal(scan.shape, dtype=np.float32)
    grain: F32 = gaussian_filter(noise, (0, size, size), output=np.float32)
    grain *= np.float32(scan.noise_hu / max(float(grain.std()), 1e-6))
    return grain


def _streaks(
    rng: np.random.Generator, scan: Scan, sources_mm: tuple[tuple[float, float], ...]
) -> F32:
    """Rays of a random profile about each source, weaker with distance; each slice has its own."""
    total = np.zeros(scan.shape, np.float32)
    middle = (float(scan.x_mm.mean()), float(scan.y_mm.mean()))
    for x0, y0 in sources_mm or (middle,):
        dy, dx = scan.y_mm[:, None] - y0, scan.x_mm[None, :] - x0
        angle = np.arctan2(dy, dx)
        bin_of = ((angle / (2 * np.pi) + 0.5) * _ANGLES).astype(np.int64) % _ANGLES
        fade = np.exp(-np.hypot(dy, dx) / _STREAK_REACH_MM).astype(np.float32)
        total += _profiles(rng, scan.slices)[:, bin_of] * fade
    return total


def _profiles(rng: np.random.Generator, slices: int) -> NDArray[np.float32]:
    """Brightness by slice and angle, of standard deviation 1: float32 (slices, angles)."""
    raw = rng.standard_normal((slices, _ANGLES)).astype(np.float32)
    smooth = gaussian_filter1d(gaussian_filter1d(raw, 1.5, axis=1, mode="wrap"), 0.7, axis=0)
    profiles: NDArray[np.float32] = smooth / max(float(smooth.std()), 1e-6)
    return profiles
