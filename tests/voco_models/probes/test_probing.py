"""The probes on volumes whose features tell a place exactly, or not at all."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from voco_data.errors import InputError
from voco_models.networks import Backbone
from voco_models.probes.batch_norm import with_batch_norm_of
from voco_models.probes.folds import patient_folds
from voco_models.probes.measures import ProbeTable, difference
from voco_models.probes.probing import ProbeOptions, chance_table, probe
from voco_models.probes.volumes import ProbedVolume

OPTIONS = ProbeOptions(crop_px=32, crops=40, crop_slice_stride=2, position_slice_stride=1)
PLANE, SLICES, SPARE = 96, 6, 64


class Quadrants(Backbone):
    """The mean of each quadrant of an image, as a map of one channel."""

    def __init__(self) -> None:
        super().__init__("quadrants", 1, 1)
        self.gain = nn.Parameter(torch.ones(()))

    def forward(self, images: Tensor) -> Tensor:
        return self.gain * functional.adaptive_avg_pool2d(images, 2)


class Normed(Backbone):
    """Batch norm alone."""

    def __init__(self) -> None:
        super().__init__("normed", 1, 1)
        self.norm = nn.BatchNorm2d(1)

    def forward(self, images: Tensor) -> Tensor:
        normed: Tensor = self.norm(images)
        return normed


def parabolas(patient: str, level: float) -> ProbedVolume:
    """Grey values y^2 + 2 x^2 + a level per slice: slopes over a crop tell where it is."""
    z, y, x = np.meshgrid(np.arange(SLICES), np.arange(PLANE), np.arange(PLANE), indexing="ij")
    voxels = (y**2 + 2 * x**2) / 100 + 500 * z + level
    return ProbedVolume(torch.tensor(voxels, dtype=torch.float32), patient, low=0, high=255)


def noise(patient: str, seed: int) -> ProbedVolume:
    generator = torch.Generator().manual_seed(seed)
    voxels = torch.randint(256, (SLICES, PLANE, PLANE), generator=generator, dtype=torch.uint8)
    return ProbedVolume(voxels, patient)


def values(table: ProbeTable) -> dict[str, float]:
    return {estimate.probe: estimate.interval.value for estimate in table.estimates()}


def test_features_that_tell_the_place_answer() -> None:
    volumes = [parabolas(f"p{number}", 0.0) for number in range(6)]
    table = probe(Quadrants(), volumes, patient_folds(volumes, 3), OPTIONS)
    found = values(table)
    assert found["crop_ridge_map"] < 2.5
    assert found["crop_knn_map"] < 6
    assert found["side_knn"] > 0.95
    assert found["slice_ridge"] < 0.1
    # A feature of one number has no angle, so nearest neighbours know only the half of the scan.
    assert found["slice_knn"] < 1
    assert set(table.by_patient["crop_knn_map"]) == {volume.patient for volume in volumes}


def test_noise_is_answered_as_by_chance() -> None:
    volumes = [noise(f"p{number}", number) for number in range(8)]
    folds = patient_folds(volumes, 4)
    found = values(probe(Quadrants(), volumes, folds, OPTIONS))
    by_chance = {e.probe: e.interval.value for e in chance_table(volumes, folds, OPTIONS)}
    # Places are uniform on 0..64, so the mean distance from the middle is 64 / 4.
    assert by_chance["crop"] == pytest.approx(SPARE / 4, rel=0.08)
    # Of 0..5 from 2.5: (2.5 + 1.5 + 0.5) / 3.
    assert by_chance["slice"] == pytest.approx(1.5)
    assert found["crop_ridge_mean"] == pytest.approx(by_chance["crop"], rel=0.08)
    assert found["crop_knn_map"] > by_chance["crop"]
    assert 0.35 < found["side_knn"] < 0.65


def test_the_same_seed_gives_the_same_table_and_another_seed_another() -> None:
    volumes = [noise(f"p{number}", number) for number in range(3)]
    folds = patient_folds(volumes, 3)
    one, two = (probe(Quadrants(), volumes, folds, OPTIONS) for _ in range(2))
    other = probe(Quadrants(), volumes, folds, dataclasses.replace(OPTIONS, seed=1))
    assert one == two
    assert one.by_patient != other.by_patient


def test_batch_norm_is_that_of_the_images_and_of_nothing_else() -> None:
    images = torch.randn(64, 1, 5, 5, generator=torch.Generator().manual_seed(0)) * 3 + 7
    original = Normed()
    before = {name: value.clone() for name, value in original.state_dict().items()}
    network = with_batch_norm_of(original, lambda net: [net(part) for part in images.split(16)])
    assert isinstance(network, Normed)
    assert not network.training
    assert float(network.norm.running_mean) == pytest.approx(float(images.mean()), rel=1e-5)
    batches = [float(part.var()) for part in images.split(16)]
    assert float(network.norm.running_var) == pytest.approx(np.mean(batches), rel=1e-5)
    assert network.norm.momentum == original.norm.momentum
    for name, value in original.state_dict().items():
        assert torch.equal(value, before[name])


def test_patients_left_out_do_not_touch_batch_norm_or_the_fit() -> None:
    """Other voxels of a patient left out change its own errors alone."""
    volumes = [noise(f"p{number}", number) for number in range(4)]
    folds = [frozenset({"p3"})]
    seen: list[Tensor] = []

    class Watching(Normed):
        def forward(self, images: Tensor) -> Tensor:
            if self.norm.training:
                seen.append(images.clone())
            return super().forward(images)

    probe(Watching(), volumes, folds, OPTIONS, reestimate=True)
    first = torch.cat([part.flatten() for part in seen])
    seen.clear()
    bright = dataclasses.replace(volumes[3], voxels=torch.full_like(volumes[3].voxels, 255))
    probe(Watching(), [*volumes[:3], bright], folds, OPTIONS, reestimate=True)
    assert torch.equal(first, torch.cat([part.flatten() for part in seen]))


def test_paired_differences_are_by_patient() -> None:
    one = ProbeTable({"crop_knn_map": {"a": 3.0, "b": 5.0, "c": 10.0}}, 1, 1)
    other = ProbeTable({"crop_knn_map": {"c": 8.0, "b": 3.0, "a": 1.0}}, 1, 1)
    (found,) = difference(one, other)
    assert (found.interval.value, found.interval.low, found.interval.high) == (2, 2, 2)
    assert found.patients == 3
    assert found.unit == "px"
    with pytest.raises(ValueError, match="different patients"):
        difference(one, ProbeTable({"crop_knn_map": {"a": 1.0}}, 1, 1))


def test_intervals_are_over_patients() -> None:
    (found,) = ProbeTable({"slice_knn": {"a": 0.0, "b": 1.0}}, 1, 1).estimates()
    assert (found.interval.value, found.interval.low, found.interval.high) == (0.5, 0, 1)


def test_planes_smaller_than_a_crop_and_empty_folds_are_refused() -> None:
    volumes = [noise("a", 0), noise("b", 1)]
    folds = patient_folds(volumes, 2)
    with pytest.raises(InputError, match="larger than crops of 96 px, got 96 x 96"):
        probe(Quadrants(), volumes, folds, dataclasses.replace(OPTIONS, crop_px=96))
    with pytest.raises(InputError, match="leaves out no patient"):
        probe(Quadrants(), volumes, [frozenset({"c"})], OPTIONS)
    with pytest.raises(InputError, match="probe: "):
        ProbeOptions(crops=0)
