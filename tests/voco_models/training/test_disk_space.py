"""The check for disk space before the first step."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from tests.support.small_stores import make_store, random_volumes
from voco_data.errors import VocoError
from voco_models.stages.pretraining import pretrain
from voco_models.training.checkpoint import check_disk_space, count_checkpoint_bytes


def test_a_checkpoint_is_weights_and_two_moments(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Linear(200, 300), nn.BatchNorm1d(300))
    optimiser = torch.optim.AdamW(module.parameters())
    module(torch.randn(4, 200)).sum().backward()
    optimiser.step()
    torch.save({"a": module.state_dict(), "b": optimiser.state_dict()}, tmp_path / "c.pt")
    size = (tmp_path / "c.pt").stat().st_size
    assert count_checkpoint_bytes(module) == pytest.approx(size, rel=0.05)


def test_frozen_weights_have_no_moments() -> None:
    module = nn.Linear(100, 100, bias=False).requires_grad_(False)
    assert count_checkpoint_bytes(module) == 100 * 100 * 4


def test_too_little_disk_space_is_an_error_before_the_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make_store(tmp_path / "root", random_volumes(3, (2, 48, 48)))
    usage = SimpleNamespace(free=2**20)
    monkeypatch.setattr("voco_models.training.checkpoint.shutil.disk_usage", lambda path: usage)
    with pytest.raises(VocoError, match="needed for checkpoints"):
        pretrain([store.path], tmp_path / "run", recipe="tiny", max_steps=1, device="cpu")
    assert not (tmp_path / "run" / "checkpoint.pt").exists()
    monkeypatch.undo()
    check_disk_space(tmp_path / "not" / "there", 1)
