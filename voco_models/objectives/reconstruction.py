"""Reconstruction of a 2D image from a volume: the negative structural similarity (SSIM).

SSIM is that of Wang et al. (IEEE TIP 2004): means, variances and the covariance under a Gaussian
window, the variances without Bessel's correction. Morano et al. (MICCAI 2023) pretrain with its
negative alone.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from voco_data.errors import InputError

WINDOW_PX = 11
SIGMA_PX = 1.5


def _gaussian_window() -> tuple[float, ...]:
    offsets = range(-(WINDOW_PX // 2), WINDOW_PX // 2 + 1)
    weights = [math.exp(-0.5 * (offset / SIGMA_PX) ** 2) for offset in offsets]
    return tuple(weight / sum(weights) for weight in weights)


WINDOW = _gaussian_window()
"""Weights along one axis; their sum is 1."""
C1 = 0.01**2
"""Of the luminance, for images in [0, 1]."""
C2 = 0.03**2
"""Of contrast and structure."""


def negative_ssim_loss(logits: Tensor, targets: Tensor, valid: Tensor | None = None) -> Tensor:
    """-SSIM of sigmoid(logits) (N, C, h, w) and images in [0, 1], a scalar from -1 (equal) to 1.

    `valid` (N, C, h, w), bool, says which pixels of the images are measured; all, if it is not
    given. A place of the window counts if all its pixels are valid. An image without such a place
    is left out. Without any image loss and gradients are 0, since a check would wait for the
    device.
    """
    images = _in_float32(logits).sigmoid()
    if valid is None:
        return -ssim(images, targets).mean()
    counted = find_whole_windows(valid)
    scores = _local_ssim(images, targets).where(counted, 0)
    over = (1, 2, 3)
    counts = counted.sum(over)
    of_images = scores.sum(over) / counts.clamp(min=1)
    return -of_images.sum() / (counts > 0).sum().clamp(min=1)


def find_whole_windows(valid: Tensor) -> Tensor:
    """bool (N, C, h - 10, w - 10): places at which the whole window is valid, (N, C, h, w)."""
    missing = functional.max_pool2d((~valid).float(), WINDOW_PX, stride=1)
    return missing == 0


def ssim(images: Tensor, references: Tensor) -> Tensor:
    """SSIM (N,) of images (N, C, h, w) in [0, 1]: means over the channels and the window's places.

    The window stays inside the image, so a border of 5 pixels has no place of its own. Computed in
    float32 (or float64), also under autocast. Raises ValueError for shapes that differ, and
    InputError for images smaller than the window.
    """
    return _local_ssim(images, references).mean(dim=(1, 2, 3))


def _local_ssim(images: Tensor, references: Tensor) -> Tensor:
    """SSIM (N, C, h - 10, w - 10) at every place of the window. Raises as `ssim`."""
    if images.shape != references.shape or images.ndim != 4:
        raise ValueError(
            f"ssim: expected two equal shapes (N, C, h, w), got {tuple(images.shape)} and "
            f"{tuple(references.shape)}"
        )
    if min(images.shape[2:]) < WINDOW_PX:
        raise InputError(
            f"reconstruction: expected images of at least {WINDOW_PX} x {WINDOW_PX} pixels, the "
            f"window of SSIM, got {images.shape[2]} x {images.shape[3]}; use larger volumes"
        )
    with torch.autocast(images.device.type, enabled=False):
        x, y = _in_float32(images), _in_float32(references)
        mean_x, mean_y, square_x, square_y, product = _window_means(
            torch.stack([x, y, x * x, y * y, x * y])
        )
        variance_x, variance_y = square_x - mean_x**2, square_y - mean_y**2
        covariance = product - mean_x * mean_y
        luminance = (2 * mean_x * mean_y + C1) / (mean_x**2 + mean_y**2 + C1)
        structure = (2 * covariance + C2) / (variance_x + variance_y + C2)
        scores: Tensor = luminance * structure
    return scores


def _in_float32(images: Tensor) -> Tensor:
    return images.to(torch.promote_types(images.dtype, torch.float32))


def _window_means(images: Tensor) -> Tensor:
    """Means (..., h - 10, w - 10) of images (..., h, w) under the Gaussian window.

    Sums of shifted images, along one axis after the other. A convolution on a GPU may round to
    TF32, and its error of 1e-3 would be as large as C2.
    """
    for axis in (-2, -1):
        length = images.shape[axis] - WINDOW_PX + 1
        mean = torch.zeros_like(images.narrow(axis, 0, length))
        for start, weight in enumerate(WINDOW):
            mean = mean + weight * images.narrow(axis, start, length)
        images = mean
    return images
