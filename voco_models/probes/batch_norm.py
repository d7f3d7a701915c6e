"""Batch norm statistics of the data that a probe is fitted on."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import nn

from voco_models.networks import Backbone


@torch.no_grad()
def with_batch_norm_of(backbone: Backbone, run_all: Callable[[Backbone], object]) -> Backbone:
    """A copy of `backbone`, in eval mode, whose batch norm statistics are those of some images.

    `run_all` calls the network on all the images, in batches. Each layer's mean and variance become
    the averages over these batches. All else of the network stays in eval mode.
    """
    network = copy.deepcopy(backbone).eval()
    norms = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # torch: the average over all batches
        norm.train()
    run_all(network)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return network.eval()
