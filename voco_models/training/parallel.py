"""An objective in several processes: averages of gradients, and batch norm over all volumes."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from voco_models.networks import synchronise_batch_norms
from voco_models.processes import n_processes
from voco_models.training.objective import Objective


def distribute(objective: Objective) -> nn.Module:
    """The objective itself, or in several processes PyTorch's wrapper, which averages gradients.

    The batch norms of the objective are then over the volumes of all processes.
    """
    if n_processes() == 1:
        return objective
    synchronise_batch_norms(objective)
    return DistributedDataParallel(objective, gradient_as_bucket_view=True)


def keep_gradients(network: nn.Module, *, is_last: bool) -> AbstractContextManager[None]:
    """A context for one of several batches of a step: only the last one averages gradients."""
    if isinstance(network, DistributedDataParallel) and not is_last:
        return network.no_sync()
    return nullcontext()
