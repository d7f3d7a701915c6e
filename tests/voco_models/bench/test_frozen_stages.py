"""Heads on frozen stages are trained as by the plain modules, in fewer operations."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator

import pytest
import torch
from torch.nn import functional

from tests.support.small_finetune import RECIPE, small_cohort
from voco_models.bench import head_training, heads
from voco_models.bench.frozen_stages import FrozenStages, sum_enlarged
from voco_models.bench.head_features import (
    CachedFeatures,
    cache_features,
    join_stages,
    stack_features,
)
from voco_models.bench.head_training import FrozenFeatureHead, HeadSetting, make_forward, train_head
from voco_models.networks import ORGAN_QUERIES, Backbone, FeatureLayout
from voco_models.networks.organ_queries import OrganQueryHead
from voco_models.stages.finetune_plan import FinetunePlan, make_plan

CPU = torch.device("cpu")


@pytest.fixture
def in_float64(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Everything in float64: another order of the same sums differs by 1e-7 at most in 12 steps."""
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@dataclasses.dataclass(frozen=True)
class Case:
    plan: FinetunePlan
    backbone: Backbone
    features: CachedFeatures
    setting: HeadSetting


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """Volumes of which many places are not zero in all stages, and organs' boxes."""
    folder = tmp_path_factory.mktemp("case")
    store, labels = small_cohort(folder)
    recipe = dataclasses.replace(
        RECIPE,
        head=ORGAN_QUERIES,
        pooling="stages",
        attention_weight=0.3,
        epochs=12,
        batch_size=3,
        hidden=8,
        dropout=0.3,
        lr=0.01,
    )
    plan = make_plan(store, labels, heads._recipe_for(recipe, [ORGAN_QUERIES]), init="scratch")
    assert plan.geometry is not None
    shape = (*plan.geometry.organ_boxes.shape[:2], 3)
    low = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    low = low * torch.tensor([200.0, 0.5, 0.5])
    boxes = torch.stack([low, low + torch.tensor([200.0, 0.6, 0.6])], dim=2)
    boxes[::3] = torch.nan
    plan = dataclasses.replace(plan, geometry=dataclasses.replace(plan.geometry, organ_boxes=boxes))
    backbone = heads._make_backbone(plan)
    rows = plan.series.rows
    features = cache_features(plan, backbone, folder, ["stages"], "mean", rows, CPU)
    places = join_stages(backbone, 32, 8).places
    setting = HeadSetting(ORGAN_QUERIES, "stages", FeatureLayout(8, places))
    return Case(plan, backbone, features, setting)


def train(case: Case) -> tuple[FrozenFeatureHead, list[float]]:
    return train_head(
        case.plan, case.setting, case.backbone, case.features, fold=0, seed=3, device=CPU
    )


def in_double(case: Case) -> Case:
    """The case with a float64 backbone, which tells the shapes of its maps."""
    return dataclasses.replace(case, backbone=copy.deepcopy(case.backbone).double())


@pytest.mark.usefixtures("in_float64")
def test_losses_weights_and_statistics_are_those_of_the_plain_modules(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = in_double(case)
    network, losses = train(case)
    monkeypatch.setattr(
        head_training, "make_forward", lambda plain, _: lambda x, _, depths: plain(x, depths)
    )
    plain, expected = train(case)
    assert len(losses) == case.plan.count_steps(0) >= 8
    assert max(losses) - min(losses) > 0.1  # it learns, so weights have moved
    torch.testing.assert_close(torch.tensor(losses), torch.tensor(expected), rtol=1e-7, atol=0)
    found = dict(network.state_dict())
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-6, msg=name)


@pytest.mark.usefixtures("in_float64")
def test_a_plain_optimiser_is_as_good(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fused kernel of torch rounds otherwise, no more."""
    case = in_double(case)
    _, losses = train(case)
    monkeypatch.setattr(head_training, "use_fused_kernel", lambda optimizer: optimizer)
    _, expected = train(case)
    torch.testing.assert_close(torch.tensor(losses), torch.tensor(expected), rtol=1e-7, atol=0)


def test_training_takes_the_shorter_way(case: Case) -> None:
    """No map is normalised, and no gradient of one is computed."""
    plan = case.plan
    series = plan.training_series(0)
    arrays = case.features.open("stages", series.rows)
    network = FrozenFeatureHead(case.setting, case.backbone, plan.recipe, None)
    assert network.joined is not None
    called: list[str] = []
    for module in network.joined.modules():
        module.register_forward_hook(lambda one, *_: called.append(type(one).__name__))
    make_forward(network, arrays)(stack_features(arrays[:2]), [0, 1], torch.zeros(2, 4))
    assert called == []


@pytest.mark.parametrize("sides", [(8, 4, 2), (7, 4, 2), (10, 4, 3), (6,)], ids=str)
def test_maps_are_enlarged_to_the_finest_by_their_nearest_places(sides: tuple[int, ...]) -> None:
    maps = [torch.randn(2, 3, side, side) for side in sides]
    expected = sum(functional.interpolate(one, sides[0], mode="nearest") for one in maps)
    torch.testing.assert_close(sum_enlarged(maps), expected)


def test_statistics_of_a_batch_follow_from_those_of_its_series(case: Case) -> None:
    series = case.plan.training_series(0)
    arrays = case.features.open("stages", series.rows)
    network = FrozenFeatureHead(case.setting, case.backbone, case.plan.recipe, None)
    assert network.joined is not None
    assert isinstance(network.head, OrganQueryHead)
    batch = stack_features([arrays[4], arrays[1]])
    FrozenStages(network.joined, network.head, arrays)(batch, [4, 1], torch.zeros(2, 4))
    channels, h, w = network.joined.shapes[0]
    values = batch[..., : channels * h * w].reshape(-1, channels).double().numpy()
    norm = network.joined.projections[0][0]
    mean, variance = values.mean(axis=0), values.var(axis=0, ddof=1)
    assert norm.running_mean.numpy() == pytest.approx(0.1 * mean, rel=1e-5, abs=1e-7)
    assert norm.running_var.numpy() == pytest.approx(0.9 + 0.1 * variance, rel=1e-5)
    assert int(norm.num_batches_tracked) == 1
