"""What counts as HU: phantoms, and what real pipelines do to them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings, strategies as st

from tests.support.abdomen_scans import planned_scan, varied_scan
from tests.support.ct_files import body
from voco_data.errors import SeriesRefused
from voco_data.reasons import Reason
from voco_data.volumes.hu_evidence import check_hu

Hu = npt.NDArray[np.int16]
INT16 = np.iinfo(np.int16)


@pytest.fixture(scope="module")
def scan() -> Hu:
    """Chest to thigh of a phantom: -1024 to 3071 HU."""
    return planned_scan(7, 1).hu


def clipped(values: npt.ArrayLike) -> Hu:
    """Values as a reader keeps them: rounded, and clipped to int16."""
    return np.clip(np.rint(values), INT16.min, INT16.max).astype(np.int16)


def refusal(hu: Hu) -> str:
    with pytest.raises(SeriesRefused) as caught:
        check_hu(hu)
    assert caught.value.reason == Reason.NOT_HU
    assert "\n" not in caught.value.detail
    return caught.value.detail


def circle(hu: Hu, padding: int) -> Hu:
    """Padding outside the round field of view, as scanners write it."""
    y, x = np.ogrid[-1 : 1 : hu.shape[1] * 1j, -1 : 1 : hu.shape[2] * 1j]
    return np.where(y**2 + x**2 > 1, padding, hu).astype(np.int16)


WRONG: dict[str, tuple[Callable[[Hu], npt.ArrayLike], str]] = {
    "slope 7": (lambda hu: hu * 7.0, "lighter than air"),
    "slope 2": (lambda hu: hu * 2.0, "lighter than air"),
    "slope 0.5": (lambda hu: hu * 0.5, "between lung and fat"),
    "intercept twice": (lambda hu: hu - 1024.0, ""),
    "intercept twice, clipped": (lambda hu: np.maximum(hu - 1024.0, -2048), ""),
    "intercept missing": (lambda hu: hu + 1024.0, "intercept is missing"),
    "intercept of the wrong sign": (lambda hu: hu + 2048.0, "intercept is missing"),
    "8 bits of a window": (lambda hu: np.clip((hu + 160) / 400 * 255, 0, 255), "neither fat"),
    "0 to 1": (lambda hu: np.clip((hu + 160) / 400, 0, 1), "neither fat"),
    "normalised": (lambda hu: (hu - hu.mean()) / hu.std(), "neither fat"),
    "wrapped at 12 bits": (lambda hu: hu % 4096, ""),
    "wrapped at 16 bits": (lambda hu: hu.astype(int) % 65536, "beyond 16 bits"),
    "shifted by 4096": (lambda hu: hu + 4096.0, "denser than bone"),
    "shifted by 65536": (lambda hu: hu + 65536.0, "every voxel"),
    "a tenth of the slope": (lambda hu: hu * 0.1, "slope is wrong"),
    "half of the slope, much noise": (
        lambda hu: (hu + np.random.default_rng(0).normal(0, 60, hu.shape)) * 0.5,
        "slope is wrong",
    ),
    "two thirds of the slope": (lambda hu: hu * 0.67, "slope is wrong"),
    "shifted by 250": (lambda hu: hu + 250.0, "slope is wrong"),
    "shifted by -200": (lambda hu: hu - 200.0, "air lies at"),
    "a window in signed 8 bits": (
        lambda hu: np.clip((hu + 160) / 400 * 255, 0, 255) - 128,
        "fill 8 bits",
    ),
    "a window stretched to -1000 and 1000": (
        lambda hu: (np.clip(hu, -160, 240) + 160) * 5.0 - 1000,
        "a window was stretched",
    ),
    "a wider window stretched to -1024 and 1023": (
        lambda hu: (np.clip(hu, -200, 300) + 200) / 500 * 2047 - 1024,
        "a window was stretched",
    ),
    "low bytes of the values": (lambda hu: ((hu.astype(int) + 1024) & 255) - 128, ""),
    "inverted": (lambda hu: -hu.astype(float), ""),
    "constant": (lambda hu: np.full(hu.shape, 40), "every voxel is 40 HU"),
    "nearly constant": (
        lambda hu: np.where(np.arange(hu.size).reshape(hu.shape) % 4999, -1000, hu),
        "of the voxels are -1000 HU",
    ),
    "air": (lambda hu: np.full(hu.shape, -1000) + hu % 7, "too little soft tissue"),
    "padding": (lambda hu: np.where(hu > 0, -2000, -3024), "neither fat"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_what_is_no_hu_is_refused_with_its_cause_and_figures(scan: Hu, kind: str) -> None:
    change, cause = WRONG[kind]
    detail = refusal(clipped(change(scan)))
    assert cause in detail
    assert any(character.isdigit() for character in detail)


def test_the_figures_are_those_of_the_values(scan: Hu) -> None:
    detail = refusal(clipped(scan * 7.0))
    low, high = np.percentile(scan[:, ::1, ::1] * 7.0, (0.1, 99.9))
    words = detail.partition("values from ")[2].replace(",", "").split()
    assert float(words[0]) == pytest.approx(low, abs=300)
    assert float(words[2]) == pytest.approx(high, rel=0.15)


RIGHT: dict[str, Callable[[Hu], npt.ArrayLike]] = {
    "as it is": lambda hu: hu,
    "clipped at 12 bits": lambda hu: np.clip(hu, -1024, 3071),
    "clipped at -1000 and 1000": lambda hu: np.clip(hu, -1000, 1000),
    "clipped to the abdomen": lambda hu: np.clip(hu, -160, 240),
    "clipped as in Swin UNETR": lambda hu: np.clip(hu, -175, 250),
    "clipped widely": lambda hu: np.clip(hu, -200, 300),
    "clipped narrowly": lambda hu: np.clip(hu, -100, 240),
    "noise of a low dose": lambda hu: hu + np.random.default_rng(0).normal(0, 90, hu.shape),
    "small field of view": lambda hu: hu[:, 20:60, 30:66],
    "a centimetre of the spine": lambda hu: hu[10:22, 48:68, 38:58],
    "upper half": lambda hu: hu[len(hu) // 2 :],
    "lower quarter": lambda hu: hu[: len(hu) // 4],
    "blank first slice": lambda hu: np.where(np.arange(len(hu))[:, None, None] == 0, -1024, hu),
    "padded slices": lambda hu: np.where(np.arange(len(hu))[:, None, None] < 2, -3024, hu),
    "a newborn in a wide field": lambda hu: np.pad(
        hu, ((0, 0), (200, 200), (200, 200)), constant_values=-1000
    ),
    "upside down": lambda hu: hu[::-1],
    "sagittal": lambda hu: hu.transpose(2, 0, 1),
    "integer values of a slope of 2": lambda hu: np.rint(hu / 2) * 2,
}


@pytest.mark.parametrize("kind", RIGHT)
def test_hu_are_accepted_however_they_were_cut_or_clipped(scan: Hu, kind: str) -> None:
    check_hu(clipped(RIGHT[kind](scan)))


@pytest.mark.parametrize("padding", [-1024, -1500, -2000, -2048, -3024, -3096, -8192, -32768])
def test_padding_is_no_fault(scan: Hu, padding: int) -> None:
    check_hu(circle(scan, padding))
    check_hu(circle(np.clip(scan, -160, 240).astype(np.int16), padding))


def test_padding_does_not_hide_a_fault(scan: Hu) -> None:
    refusal(circle(clipped(scan * 7.0), -20_000))
    refusal(circle(clipped(scan - 1024.0), -3024))


def test_metal_is_no_fault(scan: Hu) -> None:
    """Two prostheses of 4 cm on an extended scale, with dark streaks beside them."""
    hu = scan.copy()
    z, y, x = hu.shape
    for column in (x // 3, 2 * x // 3):
        hu[: z // 4, y // 2 - 4 : y // 2 + 4, column - 4 : column + 4] = 12_000
        hu[: z // 4, y // 2 - 4 : y // 2 + 4, column + 4] = -1024
    check_hu(hu)
    check_hu(np.minimum(hu, 3071))


def test_speckles_that_wrapped_around_are_refused(scan: Hu) -> None:
    """Air with noise below -1024, stored without a sign in 12 bits: -1025 becomes 3071."""
    noisy = scan + np.random.default_rng(0).normal(0, 20, scan.shape)
    wrapped = (np.rint(noisy).astype(np.int64) + 1024) % 4096 - 1024
    assert "wrapped around" in refusal(clipped(wrapped))


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    mean=st.integers(-900, 900),
    spread=st.integers(1, 20_000),
    is_uniform=st.booleans(),
)
def test_noise_is_no_hu(seed: int, mean: int, spread: int, is_uniform: bool) -> None:
    rng = np.random.default_rng(seed)
    size = (12, 64, 64)
    values = rng.uniform(-spread, spread, size) if is_uniform else rng.normal(0, spread, size)
    refusal(clipped(values + mean))


def test_one_damaged_slice_is_named(scan: Hu) -> None:
    """A lossless JPEG stream after a wrong bit: each pixel is its neighbour plus an error."""
    hu = scan.copy()
    steps = np.random.default_rng(0).integers(-300, 300, hu[5].size)
    hu[5] = (steps.cumsum() % 4096 - 1024).reshape(hu[5].shape)
    assert f"slice 6 of {len(hu)}" in refusal(hu)


def test_small_made_up_bodies_of_the_tests_are_hu() -> None:
    check_hu(body())
    assert "intercept" in refusal(body() + 1024)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(40))
def test_any_phantom_is_hu_and_its_faults_are_not(number: int) -> None:
    for scan in (planned_scan(3, number), varied_scan(3, number)):
        check_hu(scan.hu)
        for low, high in ((-160, 240), (-200, 300), (-1000, 1000)):
            check_hu(np.clip(scan.hu, low, high))
        refusal(clipped(scan.hu * 7.0))
        refusal(clipped(scan.hu - 1024.0))
        refusal(clipped(scan.hu + 1024.0))
