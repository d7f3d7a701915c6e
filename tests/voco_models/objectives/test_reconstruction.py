"""SSIM beside SciPy's Gaussian filter and MONAI, and the loss of reconstruction."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from voco_data.errors import InputError
from voco_models.objectives.reconstruction import (
    find_whole_windows,
    negative_ssim_loss,
    ssim,
)


def images(kind: str, shape: tuple[int, ...] = (2, 1, 24, 37)) -> tuple[torch.Tensor, torch.Tensor]:
    """Pairs of float64 images in [0, 1]: unlike, nearly equal, and smooth ones."""
    rng = np.random.default_rng(0)
    a, b = rng.random((2, *shape))
    if kind == "near":
        b = np.clip(a + 0.05 * (b - 0.5), 0, 1)
    elif kind == "smooth":
        a, b = (gaussian_filter(x, (0, 0, 4, 4)) for x in (a, b))
        a, b = ((x - x.min()) / (x.max() - x.min()) for x in (a, b))
    return torch.from_numpy(a), torch.from_numpy(b)


def ssim_by_scipy(a: np.ndarray, b: np.ndarray) -> float:
    """The definition, with the means of SciPy's filter: radius 5, the border left out.

    scikit-image's `structural_similarity(gaussian_weights=True, sigma=1.5,
    use_sample_covariance=False, data_range=1)` takes the same steps.
    """

    def mean(x: np.ndarray) -> np.ndarray:
        return gaussian_filter(x, 1.5, radius=5)[5:-5, 5:-5]

    ma, mb = mean(a), mean(b)
    va, vb, cov = mean(a * a) - ma**2, mean(b * b) - mb**2, mean(a * b) - ma * mb
    top = (2 * ma * mb + 1e-4) * (2 * cov + 9e-4)
    return float((top / ((ma**2 + mb**2 + 1e-4) * (va + vb + 9e-4))).mean())


@pytest.mark.parametrize("kind", ["unlike", "near", "smooth"])
def test_ssim_is_that_of_scipys_window(kind: str) -> None:
    a, b = images(kind)
    expected = [ssim_by_scipy(a[i, 0].numpy(), b[i, 0].numpy()) for i in range(2)]
    np.testing.assert_allclose(ssim(a, b).numpy(), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", ["unlike", "near"])
def test_ssim_is_that_of_monai(kind: str) -> None:
    """MONAI computes in float32, also of float64 images. On smooth images, whose variances are as
    small as C2, its rounding is 1e-5; SciPy's is compared there."""
    metrics = pytest.importorskip("monai.metrics.regression")
    a, b = images(kind, (2, 3, 24, 37))
    metric = metrics.SSIMMetric(spatial_dims=2, data_range=1.0, win_size=11, kernel_sigma=1.5)
    expected = metric(a, b).flatten().double()
    torch.testing.assert_close(ssim(a, b), expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(ssim(a.float(), b.float()).double(), expected, rtol=0, atol=2e-6)


def test_equal_images_have_ssim_1_and_constant_images_that_of_their_luminance() -> None:
    a, _ = images("unlike")
    torch.testing.assert_close(ssim(a, a), torch.ones(2, dtype=torch.float64))
    dark, light = torch.full_like(a, 0.2), torch.full_like(a, 0.6)
    luminance = (2 * 0.2 * 0.6 + 1e-4) / (0.2**2 + 0.6**2 + 1e-4)
    torch.testing.assert_close(ssim(dark, light), torch.full((2,), luminance, dtype=torch.float64))


def test_channels_are_averaged_and_images_are_not() -> None:
    a, b = images("unlike", (3, 2, 15, 12))
    first, second = (x.flatten(0, 1)[:, None] for x in (a, b))
    alone = ssim(first, second)
    torch.testing.assert_close(ssim(a, b), alone.reshape(3, 2).mean(dim=1))


def test_the_loss_is_minus_ssim_of_the_sigmoid() -> None:
    a, b = images("near")
    torch.testing.assert_close(negative_ssim_loss(a.logit(), b), -ssim(a, b).mean())


def test_gradients_are_those_of_finite_differences() -> None:
    a, b = images("unlike", (1, 1, 12, 13))
    assert torch.autograd.gradcheck(lambda x: negative_ssim_loss(x, b), (a.requires_grad_(),))


def test_descent_on_the_loss_reconstructs_the_image() -> None:
    _, target = images("smooth", (1, 1, 16, 16))
    logits = torch.zeros_like(target, requires_grad=True)
    optimiser = torch.optim.Adam([logits], lr=0.2)
    for _ in range(60):
        optimiser.zero_grad()
        negative_ssim_loss(logits, target).backward()
        optimiser.step()
    assert ssim(logits.sigmoid(), target).item() > 0.9


def test_the_loss_is_computed_in_float32_under_autocast() -> None:
    a, b = (x.float() for x in images("near"))
    with torch.autocast("cpu", torch.bfloat16):
        found = negative_ssim_loss(a.logit(), b)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, -ssim(a, b).mean())


def test_images_smaller_than_the_window_and_other_shapes_are_refused() -> None:
    with pytest.raises(InputError, match=r"at least 11 x 11 pixels, .* got 8 x 16; use larger"):
        ssim(torch.rand(1, 1, 8, 16), torch.rand(1, 1, 8, 16))
    with pytest.raises(ValueError, match=r"got \(2, 1, 16, 16\) and \(2, 3, 16, 16\)"):
        ssim(torch.rand(2, 1, 16, 16), torch.rand(2, 3, 16, 16))


def masked_ssim_by_scipy(a: np.ndarray, b: np.ndarray, valid: np.ndarray) -> float:
    """The mean over the places whose whole window of 11 x 11 pixels is valid."""
    scores = [
        ssim_by_scipy(a[i : i + 11, j : j + 11], b[i : i + 11, j : j + 11])
        for i in range(a.shape[0] - 10)
        for j in range(a.shape[1] - 10)
        if valid[i : i + 11, j : j + 11].all()
    ]
    return float(np.mean(scores))


def test_only_windows_that_are_wholly_valid_count() -> None:
    """One image has a strip that is not measured, one a hole, one nothing at all."""
    a, b = images("near", (3, 1, 24, 37))
    valid = torch.ones(3, 1, 24, 37, dtype=torch.bool)
    valid[0, 0, :, :9] = False
    valid[1, 0, 5, 20] = False
    valid[2] = False
    expected = [
        masked_ssim_by_scipy(a[i, 0].numpy(), b[i, 0].numpy(), valid[i, 0].numpy()) for i in (0, 1)
    ]
    found = negative_ssim_loss(a.logit(), b, valid)
    assert -found.item() == pytest.approx(np.mean(expected), abs=1e-9)
    assert find_whole_windows(valid)[1, 0].sum() == 14 * 27 - 6 * 11


def test_what_is_not_valid_has_no_influence_and_no_gradient() -> None:
    a, b = images("near")
    valid = torch.ones_like(b, dtype=torch.bool)
    valid[..., 20:] = False
    other = b.where(valid, 0.0)
    logits = a.logit().requires_grad_()
    loss = negative_ssim_loss(logits, other, valid)
    torch.testing.assert_close(loss, negative_ssim_loss(a.logit(), b, valid))
    loss.backward()
    assert logits.grad is not None
    assert not logits.grad[..., 20:].any()
    assert logits.grad[..., :20].abs().max() > 0


def test_all_pixels_valid_is_the_plain_loss_and_none_is_0() -> None:
    a, b = images("unlike")
    everywhere = torch.ones_like(b, dtype=torch.bool)
    logits = a.logit().requires_grad_()
    torch.testing.assert_close(
        negative_ssim_loss(logits, b, everywhere), negative_ssim_loss(logits, b)
    )
    nothing = negative_ssim_loss(logits, b, ~everywhere)
    nothing.backward()
    assert nothing.item() == 0.0
    assert logits.grad is not None
    assert not logits.grad.any()
