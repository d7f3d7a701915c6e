"""Optimisers as a recipe names them, against torch's own."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from voco_data.errors import InputError
from voco_models.training.checkpoint import count_checkpoint_bytes
from voco_models.training.fit_config import FitConfig
from voco_models.training.optimizers import KINDS, AdamW, Optimizer, Sgd, use_fused

CPU = torch.device("cpu")
CONFIG = FitConfig(total_steps=2, lr=0.1, weight_decay=0.02)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))


def trained(module: nn.Module, optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    for step in range(5):
        inputs = torch.randn(8, 3, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        module(inputs).square().sum().backward()
        optimizer.step()
    return [value.detach().clone() for value in module.parameters()]


def ours(settings: Optimizer, *, amsgrad: bool = False) -> list[torch.Tensor]:
    module = network()
    groups = [{"params": list(module.parameters())}]
    built = settings.build(groups, lr=0.1, weight_decay=0.02, amsgrad=amsgrad, device=CPU)
    return trained(module, built)


def assert_equal(one: list[torch.Tensor], other: list[torch.Tensor]) -> None:
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("amsgrad", [False, True])
def test_adamw_is_torchs(amsgrad: bool) -> None:
    module = network()
    torchs = torch.optim.AdamW(module.parameters(), lr=0.1, weight_decay=0.02, amsgrad=amsgrad)
    assert_equal(ours(AdamW(), amsgrad=amsgrad), trained(module, torchs))


def test_options_of_adamw_reach_torch() -> None:
    module = network()
    torchs = torch.optim.AdamW(
        module.parameters(), lr=0.1, weight_decay=0.02, betas=(0.8, 0.9), eps=0.1
    )
    assert_equal(ours(AdamW(betas=(0.8, 0.9), eps=0.1)), trained(module, torchs))


@pytest.mark.parametrize(("momentum", "nesterov"), [(0.9, False), (0.9, True), (0.0, False)])
def test_sgd_is_torchs(momentum: float, nesterov: bool) -> None:
    module = network()
    torchs = torch.optim.SGD(
        module.parameters(), lr=0.1, weight_decay=0.02, momentum=momentum, nesterov=nesterov
    )
    assert_equal(ours(Sgd(momentum=momentum, nesterov=nesterov)), trained(module, torchs))


@pytest.mark.parametrize("settings", [AdamW(decayed="matrices"), Sgd(decayed="matrices")])
def test_biases_and_norms_may_go_without_decay(settings: Optimizer) -> None:
    module = network()
    groups = [{"params": list(module.parameters()), "lr_scale": 0.5}]
    built = settings.build(groups, lr=0.1, weight_decay=0.02, amsgrad=False, device=CPU)
    decays = {
        parameter.ndim: (group["weight_decay"], group["lr_scale"])
        for group in built.param_groups
        for parameter in group["params"]
    }
    assert decays == {2: (0.02, 0.5), 1: (0.0, 0.5)}
    count = sum(len(group["params"]) for group in built.param_groups)
    assert count == len(list(module.parameters()))


def test_a_group_left_empty_is_left_out() -> None:
    bias = nn.Parameter(torch.zeros(3))
    built = AdamW(decayed="matrices").build(
        [{"params": [bias]}], lr=0.1, weight_decay=0.02, amsgrad=False, device=CPU
    )
    assert [group["weight_decay"] for group in built.param_groups] == [0.0]


def test_fused_is_for_cuda_unless_it_is_asked_for() -> None:
    cuda = torch.device("cuda")
    assert [use_fused("auto", device) for device in (CPU, cuda)] == [False, True]
    assert [use_fused(choice, CPU) for choice in ("on", "off")] == [True, False]


@pytest.mark.parametrize(
    ("settings", "amsgrad", "moments"),
    [(AdamW(), False, 2), (AdamW(), True, 3), (Sgd(), False, 1), (Sgd(momentum=0.0), False, 0)],
)
def test_the_room_for_checkpoints_counts_what_it_keeps(
    settings: Optimizer, amsgrad: bool, moments: int
) -> None:
    module = nn.Linear(30, 40)
    built = settings.build(
        [{"params": list(module.parameters())}],
        lr=0.1,
        weight_decay=0.0,
        amsgrad=amsgrad,
        device=CPU,
    )
    module(torch.randn(2, 30)).sum().backward()
    built.step()
    kept = [
        value
        for state in built.state_dict()["state"].values()
        for value in state.values()
        if isinstance(value, torch.Tensor) and value.ndim
    ]
    assert len(kept) == 2 * moments
    assert settings.moments(amsgrad=amsgrad) == moments
    assert count_checkpoint_bytes(module, moments=moments) == (1 + moments) * 4 * (30 * 40 + 40)


def test_every_kind_is_registered_under_its_name() -> None:
    assert {cls().kind: cls for cls in (AdamW, Sgd)} == dict(KINDS)


def test_settings_out_of_range_are_refused() -> None:
    for make in (
        lambda: AdamW(betas=(0.9, 1.0)),
        lambda: AdamW(eps=0.0),
        lambda: Sgd(momentum=1.0),
        lambda: Sgd(momentum=0.0, nesterov=True),
        lambda: replace(CONFIG, amsgrad=True, optimizer=Sgd()),
        lambda: replace(CONFIG, clip_norm=0.0),
    ):
        with pytest.raises(InputError, match=r"^recipe: "):
            make()
