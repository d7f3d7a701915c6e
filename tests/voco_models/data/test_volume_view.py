"""What the classifier sees of a volume: averages, subsamples, and each volume read once."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
import pytest
import torch

from tests.support.small_stores import make_store, random_volumes
from voco_data.errors import InputError
from voco_models.data.items import ReducedVolumes
from voco_models.data.volume_view import VolumeView, average


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_average_is_the_mean_of_blocks() -> None:
    volume = np.random.default_rng(0).integers(0, 256, (1, 6, 4, 8), np.uint8)
    blocks = volume.reshape(1, 3, 2, 2, 2, 4, 2).mean(axis=(2, 4, 6))
    found = average(torch.from_numpy(volume), (3, 2, 4)).numpy()
    assert np.abs(found - blocks).max() <= 0.5


def test_subsample_takes_every_second_slice_and_the_middle_window() -> None:
    volume = torch.arange(8 * 6 * 6).reshape(1, 8, 6, 6).to(torch.uint8)
    view = VolumeView(slices=4, size_px=4, reduce="subsample")
    assert torch.equal(view.make_middle_view(volume), volume[:, 0:8:2, 1:5, 1:5])


def test_random_windows_cover_every_start_and_repeat_by_seed() -> None:
    ramp = torch.arange(8)[:, None, None] * 16 + torch.arange(4)[None, :, None] * 4
    volume = (ramp + torch.arange(4)).to(torch.uint8)[None].expand(200, -1, -1, -1)
    view = VolumeView(slices=4, size_px=3, reduce="subsample")
    found = view.make_random_view(volume, [generator(seed) for seed in range(200)])
    corners = {int(v) for v in found[:, 0, 0, 0]}
    assert corners == {16 * z + 4 * y + x for z in (0, 1) for y in (0, 1) for x in (0, 1)}
    again = view.make_random_view(volume[:3], [generator(seed) for seed in (7, 0, 199)])
    assert torch.equal(again, found[[7, 0, 199]])


def test_a_range_of_slices_is_a_view_of_these_slices() -> None:
    volume = torch.randint(0, 256, (2, 20, 6, 6), dtype=torch.uint8)
    for reduce in ("average", "subsample"):
        whole = VolumeView(slices=4, size_px=4, reduce=reduce)  # type: ignore[arg-type]
        upper = replace(whole, z_range=(0.4, 1.0))
        assert torch.equal(upper.make_middle_view(volume), whole.make_middle_view(volume[:, 8:]))
        generators = [[generator(seed) for seed in (1, 2)] for _ in range(2)]
        assert torch.equal(
            upper.make_random_view(volume, generators[0]),
            whole.make_random_view(volume[:, 8:], generators[1]),
        )
    upper.check_grid((20, 6, 6))
    with pytest.raises(InputError, match=r"fewer in its z range 0\.4 to 1"):
        upper.check_grid((5, 6, 6))
    with pytest.raises(InputError, match="z_range must be"):
        replace(upper, z_range=(0.5, 0.5))


def test_depths_are_those_of_the_middles_of_slices_below_the_superior_end() -> None:
    whole = VolumeView(slices=4, size_px=4, reduce="average")
    extents = torch.tensor([400.0, 80.0])
    assert whole.depths_mm(extents).tolist() == [[350, 250, 150, 50], [70, 50, 30, 10]]
    upper = replace(whole, z_range=(0.5, 1.0))
    assert upper.depths_mm(extents).tolist() == [[175, 125, 75, 25], [35, 25, 15, 5]]


def test_a_view_larger_than_the_grid_is_refused() -> None:
    view = VolumeView(slices=4, size_px=8, reduce="average")
    view.check_grid((4, 8, 8))
    with pytest.raises(InputError, match=r"\(3, 8, 8\) has fewer"):
        view.check_grid((3, 8, 8))


def test_reduced_volumes_read_once(tmp_path: object) -> None:
    volumes = random_volumes(2, (4, 8, 8))
    store = make_store(tmp_path, volumes)  # type: ignore[arg-type]
    reduced = ReducedVolumes(store, VolumeView(slices=2, size_px=4, reduce="average"))
    expected = average(torch.from_numpy(volumes), (2, 4, 4)).numpy()
    out = np.empty((2, 4, 4), np.uint8)
    reduced.read(1, out=out)
    np.testing.assert_array_equal(out, expected[1])
    (store.path / "volumes/c/1/0/0/0").unlink()
    np.testing.assert_array_equal(reduced.read(1), expected[1])
    reduced.read(1)[...] = 0  # the caller's copy
    np.testing.assert_array_equal(reduced.read(1), expected[1])


def test_the_plane_range_is_that_of_the_middle_view() -> None:
    view = VolumeView(slices=2, size_px=4, reduce="subsample")
    rows = torch.arange(8.0)[None, None, :, None].expand(1, 2, 8, 6)
    (low, high), _ = view.plane_range((2, 8, 6))
    seen = view.make_middle_view(rows)[0, 0, :, 0]
    assert [float(seen[0]) / 8, (float(seen[-1]) + 1) / 8] == [low, high]
    assert view.plane_range((2, 8, 6))[1] == pytest.approx((1 / 6, 5 / 6))
    averaged = VolumeView(slices=2, size_px=4, reduce="average")
    assert averaged.plane_range((2, 8, 6)) == ((0.0, 1.0), (0.0, 1.0))


@pytest.mark.parametrize(
    ("stored", "slices", "reduce", "z_range"),
    [
        (96, 48, "subsample", (0.0, 1.0)),
        (100, 60, "subsample", (0.0, 1.0)),
        (96, 40, "subsample", (0.5, 1.0)),
        (96, 13, "subsample", (0.25, 1.0)),
        (96, 24, "average", (0.5, 1.0)),
        (31, 5, "average", (0.5, 1.0)),
        (31, 31, "average", (0.0, 1.0)),
    ],
)
def test_the_shown_range_says_which_slices_are_seen(
    stored: int, slices: int, reduce: Literal["average", "subsample"], z_range: tuple[float, float]
) -> None:
    """Each voxel is the number of its slice, so the view itself says what it shows."""
    view = VolumeView(slices=slices, size_px=4, reduce=reduce, z_range=z_range)
    volume = torch.arange(stored, dtype=torch.uint8).reshape(1, -1, 1, 1).expand(-1, -1, 4, 4)
    seen = view.make_middle_view(volume)[0, :, 0, 0].double()
    low, high = view.shown_range(stored)
    middles = (low + (high - low) * (torch.arange(slices).double() + 0.5) / slices) * stored
    # Averages of uneven blocks are rounded, and their middles are not at even distances.
    tolerance = 1e-9 if reduce == "subsample" else 0.51
    torch.testing.assert_close(middles - 0.5, seen, rtol=0, atol=tolerance)
