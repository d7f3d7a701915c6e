"""Batch norm over the volumes of all processes of a training.

On CUDA it is PyTorch's `SyncBatchNorm`. PyTorch has none for the CPU, so `GlooBatchNorm` is ours.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from voco_models.processes import mean_over_processes, n_processes

_SETTINGS = ("eps", "momentum", "affine", "track_running_stats", "training")
_TENSORS = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


class NcclBatchNorm(nn.SyncBatchNorm):
    """PyTorch's batch norm over all processes, and what timm's layers do after a batch norm."""

    def __init__(self, norm: _BatchNorm) -> None:
        """Take over the settings, and the very parameters and buffers, of `norm`."""
        super().__init__(norm.num_features)
        _take_over(self, norm)

    def forward(self, values: Tensor) -> Tensor:
        """Normalised values of the shape (B, C, ...) of `values`."""
        if n_processes() == 1:
            return _activate(self, _BatchNorm.forward(self, values))
        return _activate(self, super().forward(values))


class GlooBatchNorm(_BatchNorm):
    """The same on the CPU. All processes must have inputs of one shape.

    In evaluation mode it is PyTorch's batch norm.
    """

    def __init__(self, norm: _BatchNorm) -> None:
        """Take over the settings, and the very parameters and buffers, of `norm`."""
        super().__init__(norm.num_features)
        _take_over(self, norm)

    def forward(self, values: Tensor) -> Tensor:
        """Normalised values of the shape (B, C, ...) of `values`."""
        if not self.training or n_processes() == 1:
            return _activate(self, super().forward(values))
        dtype = values.dtype
        values = values.to(torch.promote_types(dtype, torch.float32))  # bf16 is too coarse
        axes = [axis for axis in range(values.dim()) if axis != 1]
        channels = [1, -1] + [1] * (values.dim() - 2)
        mean = mean_over_processes(values.mean(axes))
        centred = values - mean.view(channels)
        variance = mean_over_processes(centred.square().mean(axes))
        self._update_statistics(mean, variance, n_processes() * values.numel() // len(mean))
        normalised = centred * (variance + self.eps).rsqrt().view(channels)
        if self.affine:
            normalised = normalised * self.weight.view(channels) + self.bias.view(channels)
        return _activate(self, normalised.to(dtype))

    def _check_input_dim(self, input: Tensor) -> None:  # noqa: A002  PyTorch's name
        """Accept inputs of any number of dimensions from (B, C) on."""
        if input.dim() < 2:
            raise ValueError(f"expected an input (B, C, ...), got {tuple(input.shape)}")

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
    """Replace the batch norms inside `network` by those over all processes, with the same tensors.

    Names in state dicts and the parameters themselves stay, so an optimiser may hold them already.
    """
    device = next(network.parameters()).device
    for parent in list(network.modules()):
        for name, child in parent.named_children():
            if isinstance(child, _BatchNorm) and not isinstance(
                child, NcclBatchNorm | GlooBatchNorm
            ):
                new = NcclBatchNorm(child) if device.type == "cuda" else GlooBatchNorm(child)
                setattr(parent, name, new)


def _take_over(norm: _BatchNorm, other: _BatchNorm) -> None:
    """Give `norm` the settings and tensors of `other`, and the layers that timm has after it."""
    for name in _SETTINGS + _TENSORS:
        setattr(norm, name, getattr(other, name))
    norm.drop = getattr(other, "drop", nn.Identity())
    norm.act = getattr(other, "act", nn.Identity())


def _activate(norm: _BatchNorm, normalised: Tensor) -> Tensor:
    """What timm's layers do after a batch norm: dropout, and an activation."""
    activated: Tensor = norm.act(norm.drop(normalised))  # type: ignore[operator]
    return activated
