"""Copies of small tensors to the device that do not wait for it."""

from __future__ import annotations

import torch
from torch import Tensor


def copy_to_device(values: Tensor, device: torch.device) -> Tensor:
    """`values`, which are on the CPU, on `device`; the CPU does not wait for the copy.

    On CUDA, a copy from pageable memory would wait until all work before it is done. Pinned memory
    is kept by PyTorch until the copy has finished. On the CPU, the values themselves.
    """
    if device.type != "cuda":
        return values.to(device)
    return values.pin_memory().to(device, non_blocking=True)
