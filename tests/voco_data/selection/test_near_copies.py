"""Other reconstructions of one scan are found, and other scans are not taken for them."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from tests.support.small_stores import make_store, random_volumes
from voco_data.selection import near_copies
from voco_data.selection.near_copies import BLOCKS, MIN_COSINE, find_near_copies, make_signature
from voco_data.selection.split_file import update_split
from voco_data.volumes import Voxels


def body(seed: int, shape: tuple[int, int, int] = (32, 96, 96)) -> Voxels:
    """A smooth made-up scan, 40 to 200."""
    noise = np.random.default_rng(seed).normal(size=shape)
    smooth = ndimage.gaussian_filter(noise, (3, 8, 8))
    return np.clip(120 + 40 * smooth / smooth.std(), 40, 200).astype(np.uint8)


def noisy(volume: Voxels, sd: float, seed: int = 0) -> Voxels:
    noise = np.random.default_rng(seed).normal(scale=sd, size=volume.shape)
    return np.clip(volume + noise, 0, 255).astype(np.uint8)


def reconstructions(volume: Voxels) -> dict[str, Voxels]:
    """What other kernels, thicknesses and windows make of a scan."""
    wide = volume.astype(np.float32)
    pairs = (wide[::2] + wide[1::2]) / 2
    return {
        "soft kernel": ndimage.gaussian_filter(wide, (0, 1.5, 1.5)).astype(np.uint8),
        "sharp kernel, noise": noisy(volume, 10),
        "slices of twice the thickness": np.repeat(pairs, 2, axis=0).astype(np.uint8),
        "another window": (0.7 * wide + 20).astype(np.uint8),
        "crop of another scan range": np.concatenate([volume[1:], volume[-1:]]),
    }


def cosine(a: Voxels, b: Voxels) -> float:
    return float(make_signature(a) @ make_signature(b))


def test_signatures_are_differences_of_block_means() -> None:
    """Against means by reshape, where blocks divide the volume."""
    volume = body(0, (32, 96, 48))
    z, y, x = BLOCKS
    means = volume.astype(np.float64).reshape(z, 2, y, 4, x, 2).mean(axis=(1, 3, 5))
    expected = np.concatenate([np.diff(means, axis=axis).ravel() for axis in range(3)])
    signature = make_signature(volume)
    np.testing.assert_allclose(signature, expected / np.linalg.norm(expected), atol=1e-5)


def test_small_and_uneven_volumes_have_signatures() -> None:
    assert np.linalg.norm(make_signature(body(0, (5, 30, 31)))) == pytest.approx(1, abs=1e-5)
    assert not make_signature(np.full((4, 8, 8), 7, np.uint8)).any()


@pytest.mark.parametrize("name", reconstructions(body(0)))
@pytest.mark.parametrize("seed", range(3))
def test_other_reconstructions_are_near_copies(name: str, seed: int) -> None:
    volume = body(seed)
    assert cosine(volume, reconstructions(volume)[name]) >= MIN_COSINE


def test_other_scans_are_not() -> None:
    assert max(cosine(body(0), body(seed)) for seed in range(1, 20)) < 0.5


def test_pairs_of_patients(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the rows do not fit in one product; series of one patient are no pair."""
    monkeypatch.setattr(near_copies, "_VOLUMES_PER_PRODUCT", 2)
    scans = [body(seed) for seed in range(4)]
    volumes = np.stack([*scans, noisy(scans[2], 10), noisy(scans[0], 10)])
    store = make_store(tmp_path, volumes)
    assert find_near_copies(store) == [
        ("patient-000", "patient-005"),
        ("patient-002", "patient-004"),
    ]
    plain = make_store(tmp_path / "plain", np.stack(scans))
    assert find_near_copies(plain) == []


def test_a_split_keeps_them_together(tmp_path: Path) -> None:
    """Whatever the seed. Without the link, one of 20 seeds would separate them."""
    scans = [body(seed) for seed in range(11)]
    store = make_store(tmp_path / "stores", np.stack([*scans, noisy(scans[3], 10)]))
    for seed in range(20):
        summary = update_split(store, tmp_path / f"{seed}.json", seed=seed, n_folds=2)
        assert (summary.near_copies, summary.patients, summary.separated_families) == (1, 12, 0)
    again = update_split(store, tmp_path / "0.json")
    assert (again.added, again.near_copies) == (0, None)


def test_volumes_that_are_all_alike_are_no_copies(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = make_store(tmp_path, np.stack([noisy(body(0), 10, seed) for seed in range(6)]))
    with caplog.at_level(logging.WARNING):
        assert find_near_copies(store) == []
    assert "the volumes of 6 of 6 patients are alike" in caplog.text


def test_one_patient_and_small_grids_have_none(tmp_path: Path) -> None:
    """Volumes of a few voxels are alike by chance."""
    assert find_near_copies(make_store(tmp_path, body(0)[None])) == []
    same = np.concatenate([random_volumes(1, (2, 8, 8))] * 2)
    assert find_near_copies(make_store(tmp_path / "tiny", same)) == []
