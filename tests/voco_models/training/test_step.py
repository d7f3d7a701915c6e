"""A step that a program takes itself is a step of `fit`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.voco_models.training.test_engine import CONFIG, CPU, PROVENANCE, Toy, ToySource
from voco_data.errors import InputError
from voco_models.training.engine import fit
from voco_models.training.history import read_history
from voco_models.training.step import prepare, take_step


def test_steps_have_the_losses_and_weights_of_a_run(tmp_path: Path) -> None:
    config = replace(CONFIG, log_every=1, accumulate=2)
    trained = Toy()
    fit(trained, ToySource(), config, out=tmp_path, device=CPU, max_steps=5, provenance=PROVENANCE)
    state = prepare(Toy(), config, CPU)
    assert state.objective.training
    stream = ToySource().batches_from(0)
    losses = [
        float(take_step(state, [next(stream), next(stream)], config)["loss"]) for _ in range(5)
    ]
    assert losses == [row["loss"] for row in read_history(tmp_path)]
    assert state.step == 5
    assert state.window == []
    for name, weight in trained.state_dict().items():
        assert torch.equal(weight, state.objective.state_dict()[name]), name


def test_bf16_is_used_on_a_cpu_only_where_it_is_asked_for() -> None:
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert not CONFIG.uses_bf16(cpu)
    assert CONFIG.uses_bf16(cuda)
    assert replace(CONFIG, amp_cpu=True).uses_bf16(cpu)
    assert not replace(CONFIG, amp=False).uses_bf16(cuda)
    with pytest.raises(InputError, match="amp_cpu needs amp=true"):
        replace(CONFIG, amp=False, amp_cpu=True)


def test_a_step_in_bf16_computes_products_in_bf16_and_keeps_float32_weights() -> None:
    types: list[torch.dtype] = []
    state = prepare(Toy(), CONFIG, CPU)
    before = {name: weight.clone() for name, weight in state.objective.named_parameters()}
    for module in state.objective.modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_hook(lambda _m, _i, output: types.append(output.dtype))
    stream = ToySource().batches_from(0)
    take_step(state, [next(stream)], replace(CONFIG, amp_cpu=True))
    assert set(types) == {torch.bfloat16}
    take_step(state, [next(stream)], CONFIG)
    assert types[-1] == torch.float32
    for name, weight in state.objective.named_parameters():
        assert weight.dtype == torch.float32
        assert not torch.equal(weight, before[name])
