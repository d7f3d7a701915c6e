"""How many directions features use: RankMe and the effective rank."""

from __future__ import annotations

import torch
from torch import Tensor

_EPSILON = 1e-7


@torch.no_grad()
def rank_me(features: Tensor) -> float:
    """RankMe of features (N, D): from 1 to min(N, D).

    exp of the entropy of the singular values, as shares of their sum (Garrido et al., ICML 2023,
    equation 1). The features are not centred.
    """
    values = torch.linalg.svdvals(features.double())
    shares = values / values.sum().clamp(min=_EPSILON) + _EPSILON
    return float(torch.exp(-(shares * shares.log()).sum()))


@torch.no_grad()
def effective_rank(features: Tensor) -> float:
    """Participation ratio of the covariance of features (N, D): from 1 to min(N - 1, D).

    (sum of eigenvalues)^2 / (sum of squared eigenvalues). 0 if all features are equal.
    """
    centred = features.double() - features.double().mean(dim=0)
    gram = centred @ centred.T if len(centred) < centred.shape[1] else centred.T @ centred
    squares = float(gram.square().sum())
    return float(gram.trace() ** 2) / squares if squares > 0 else 0.0
