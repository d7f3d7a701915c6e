"""A step that a program takes itself is a step of `fit`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from tests.voco_models.training.test_engine import CONFIG, CPU, PROVENANCE, Toy, ToySource
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
