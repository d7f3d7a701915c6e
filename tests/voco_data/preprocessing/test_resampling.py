"""The fused kernel against a float64 average by another method."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import SimpleITK as sitk
from hypothesis import given, settings, strategies as st
from scipy.ndimage import map_coordinates

from voco_data.preprocessing.resampling import axis_weights, resample
from voco_data.volumes.voxels import Quantisation

LOW, WIDTH, FLOOR = -150.0, 400.0, -1024
WINDOW = Quantisation(LOW, WIDTH, np.dtype(np.uint8))
HALF_A_GREY_LEVEL = 0.5 + 1e-3


def area_reference(
    box: npt.NDArray[np.int16], grid: tuple[int, int, int]
) -> npt.NDArray[np.float64]:
    """Repeat every voxel n times, average m of the copies: exact for any m voxels to n."""
    values = np.maximum(box.astype(np.float64), FLOOR)
    for axis, n in enumerate(grid):
        m = values.shape[axis]
        shape = (*values.shape[:axis], n, m, *values.shape[axis + 1 :])
        values = np.repeat(values, n, axis=axis).reshape(shape).mean(axis=axis + 1)
    return np.clip((values - LOW) / WIDTH * 255, 0, 255)


@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(*[st.integers(6, 24)] * 3),
    shrink=st.tuples(*[st.floats(0.2, 1.0)] * 3),
    seed=st.integers(0, 2**16),
    flip=st.booleans(),
)
def test_shrinking_is_the_exact_area_average(
    shape: tuple[int, int, int],
    shrink: tuple[float, float, float],
    seed: int,
    flip: bool,
) -> None:
    rng = np.random.default_rng(seed)
    hu = rng.integers(-3100, 1500, shape).astype(np.int16)
    hu = hu[::-1, :, ::-1] if flip else hu
    start = tuple(int(rng.integers(0, 3)) for _ in shape)
    stop = tuple(n - int(rng.integers(0, 3)) for n in shape)
    grid = tuple(max(1, int((b - a) * s)) for a, b, s in zip(start, stop, shrink, strict=True))
    got = resample(hu, start, stop, grid, WINDOW, FLOOR)
    box = hu[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))]
    assert np.abs(got - area_reference(box, grid)).max() <= HALF_A_GREY_LEVEL


def structures(shape: tuple[int, int, int]) -> npt.NDArray[np.float64]:
    """Ellipsoids with sharp edges, HU inside the window."""
    z, y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij", sparse=True)
    hu = np.full(shape, -100.0)
    for n, (level, radius) in enumerate([(40, 0.9), (110, 0.5), (-20, 0.3), (180, 0.2)]):
        hu[(z - 0.1 * n) ** 2 + (y + 0.15 * n) ** 2 + (x - 0.2 * n) ** 2 < radius**2] = level
    return hu


@pytest.mark.parametrize("grid", [(8, 48, 48), (24, 64, 64)])
def test_noise_is_averaged_and_nothing_else_is_lost(grid: tuple[int, int, int]) -> None:
    """Against the average of the noise-free voxels: only the reduced noise remains."""
    shape, sigma, grey = (75, 128, 128), 30.0, WIDTH / 255
    clean = structures(shape)
    noise = np.random.default_rng(3).normal(0, sigma, shape)
    noisy = np.rint(np.clip(clean + noise, LOW, LOW + WIDTH)).astype(np.int16)
    truth = area_reference(np.clip(clean, LOW, LOW + WIDTH).astype(np.int16), grid) * grey

    def rmse(values: npt.NDArray[np.floating]) -> float:
        return float(np.sqrt(np.mean((values - truth) ** 2)))

    got = resample(noisy, (0, 0, 0), shape, grid, WINDOW, FLOOR)
    voxels = np.prod([n / m for n, m in zip(shape, grid, strict=True)])  # averaged into one
    ours = rmse(got * grey)
    # Clipping at the window's ends and rounding add a small part of the difference.
    assert ours == pytest.approx(sigma / np.sqrt(voxels), rel=0.15)
    image = sitk.GetImageFromArray(noisy)
    frame = sitk.Image(grid[::-1], sitk.sitkFloat32)
    spacing = [n / m for n, m in zip(shape[::-1], grid[::-1], strict=True)]
    frame.SetSpacing(spacing)
    frame.SetOrigin([(step - 1) / 2 for step in spacing])
    linear = sitk.GetArrayFromImage(sitk.Resample(image, frame, interpolator=sitk.sitkLinear))
    assert 1.5 * ours < rmse(linear - LOW)


def test_growing_is_linear_at_the_centres() -> None:
    hu = np.random.default_rng(1).integers(-150, 250, (5, 7, 6)).astype(np.int16)
    grid = (12, 16, 15)
    got = resample(hu, (0, 0, 0), hu.shape, grid, WINDOW, FLOOR)
    centres = [
        np.clip((np.arange(n) + 0.5) * m / n - 0.5, 0, m - 1)
        for m, n in zip(hu.shape, grid, strict=True)
    ]
    values = map_coordinates(hu.astype(np.float64), np.meshgrid(*centres, indexing="ij"), order=1)
    assert np.abs(got - (values - LOW) / WIDTH * 255).max() <= HALF_A_GREY_LEVEL


def test_window_ends_and_rounding() -> None:
    # Level 50, width 400: -150 HU is 0, 250 HU is 255, 50 HU is 127.5 and rounds up.
    hu = np.array([-2000, -150, 50, 250, 3000], np.int16).reshape(1, 1, 5)
    got = resample(hu, (0, 0, 0), (1, 1, 5), (1, 1, 5), WINDOW, FLOOR)
    assert got.ravel().tolist() == [0, 0, 128, 255, 255]


@given(n_in=st.integers(1, 300), n_out=st.integers(1, 300))
def test_weights_sum_to_one_and_stay_inside(n_in: int, n_out: int) -> None:
    weights = axis_weights(3, 3 + n_in, n_out)
    assert np.allclose(weights.weights.sum(axis=1), 1.0, atol=1e-5)
    assert weights.first.min() >= 3
    assert (weights.first + weights.count).max() <= 3 + n_in


def test_an_empty_box_is_an_error() -> None:
    with pytest.raises(ValueError, match="cannot resample"):
        axis_weights(4, 4, 2)
