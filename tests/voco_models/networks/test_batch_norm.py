"""Batch norm over several processes, computed in this one; see also test_distributed_step.py."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from voco_models.networks import batch_norm
from voco_models.networks.batch_norm import GlooBatchNorm


def test_statistics_of_bf16_values_are_those_of_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    # Two processes with the same values.
    monkeypatch.setattr(batch_norm, "n_processes", lambda: 2)
    monkeypatch.setattr(batch_norm, "mean_over_processes", lambda values: values)
    values = 100 + torch.randn(64, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    rounded = values.bfloat16()
    ours, expected = GlooBatchNorm(nn.BatchNorm2d(3)), nn.BatchNorm2d(3)
    found = ours(rounded)
    reference = expected(rounded.float())
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), reference, rtol=0.01, atol=0.01)
    torch.testing.assert_close(ours.running_mean, expected.running_mean)
    torch.testing.assert_close(ours.running_var, expected.running_var, rtol=1e-3, atol=1e-3)
