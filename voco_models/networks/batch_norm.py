"""Batch norm over the volumes of all processes of a training."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from voco_models.processes import mean_over_processes, n_processes

_SETTINGS = (
    "num_features", "eps", "momentum", "affine", "track_running_stats", "training"
)  # fmt: skip
_TENSORS = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


class SyncBatchNorm(nn.SyncBatchNorm):
    """PyTorch's batch norm over all processes, also on the CPU, where PyTorch has none.

    All processes must have inputs of the same shape. It also does what timm's batch norms do after
    it: dropout and an activation.
    """

    def __init__(self, norm: _BatchNorm) -> None:
        """Take the settings, and the very parameters and buffers, of `norm`."""
        super().__init__(norm.num_features)
        for name in _SETTINGS:
            setattr(self, name, getattr(norm, name))
        for name in _TENSORS:
            setattr(self, name, getattr(norm, name))
        self.drop: nn.Module = getattr(norm, "drop", nn.Identity())
        self.act: nn.Module = getattr(norm, "act", nn.Identity())

    def forward(self, values: Tensor) -> Tensor:
        """Normalised values of the shape (B, C, ...) of `values`."""
        on_cpu = self.training and n_processes() > 1 and values.device.type == "cpu"
        normalised = self._normalise_on_cpu(values) if on_cpu else super().forward(values)
        result: Tensor = self.act(self.drop(normalised))
        return result

    def _normalise_on_cpu(self, values: Tensor) -> Tensor:
        """`nn.BatchNorm2d` of the joined batch, with its update of the running statistics."""
        axes = [axis for axis in range(values.dim()) if axis != 1]
        channels = [1, -1] + [1] * (values.dim() - 2)
        mean = mean_over_processes(values.mean(axes))
        centred = values - mean.view(channels)
        variance = mean_over_processes(centred.square().mean(axes))
        self._update_statistics(mean, variance, n_processes() * values.numel() // len(mean))
        normalised = centred * (variance + self.eps).rsqrt().view(channels)
        if self.affine:
            normalised = normalised * self.weight.view(channels) + self.bias.view(channels)
        return normalised

    @torch.no_grad()
    def _update_statistics(self, mean: Tensor, variance: Tensor, count: int) -> None:
        """Move the running statistics; `count` values of each channel were averaged."""
        if not self.track_running_stats:
            return
        assert self.num_batches_tracked is not None
        assert self.running_mean is not None
        assert self.running_var is not None
        self.num_batches_tracked.add_(1)
        weight = 1 / int(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, weight)
        self.running_var.lerp_(variance * (count / (count - 1)), weight)  # unbiased, as PyTorch's


def synchronise_batch_norms(network: nn.Module) -> None:
    """Replace the batch norms inside `network` by `SyncBatchNorm`, with the same tensors.

    Names in state dicts and the parameters themselves stay, so an optimiser may hold them already.
    """
    for parent in list(network.modules()):
        for name, child in parent.named_children():
            if isinstance(child, _BatchNorm) and not isinstance(child, nn.SyncBatchNorm):
                setattr(parent, name, SyncBatchNorm(child))
