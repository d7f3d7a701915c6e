"""Two predictors on frozen features: the mean of nearest neighbours, and ridge regression."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

QUERIES_PER_PRODUCT = 1024
"""Rows of a product of queries and fitted features, which bounds its memory."""
_TINY = 1e-12


@torch.no_grad()
def knn_predict(fitted: Tensor, targets: Tensor, queries: Tensor, neighbours: int) -> Tensor:
    """Mean target of the `neighbours` nearest fitted features, by cosine: float32 (Q, T).

    `fitted` is (N, D), `targets` (N, T), `queries` (Q, D). Features are centred on the mean of the
    fitted ones, so that what all have in common does not hide what differs.
    """
    centre = fitted.mean(dim=0)
    known = functional.normalize(fitted - centre, dim=1)
    count = min(neighbours, len(known))
    predicted = [
        targets[(functional.normalize(part - centre, dim=1) @ known.T).topk(count, dim=1).indices]
        .float()
        .mean(dim=1)
        for part in torch.split(queries, QUERIES_PER_PRODUCT)
    ]
    return torch.cat(predicted)


@torch.no_grad()
def ridge_predict(fitted: Tensor, targets: Tensor, queries: Tensor, strength: float) -> Tensor:
    """Ridge regression with an intercept, in its dual form: float32 (Q, T).

    Minimises sum (w . f + b - t)^2 + `strength` * m * |w|^2, where m is the mean squared norm of
    the centred fitted features (Hoerl and Kennard 1970). The dual form solves N equations for N
    rows, whatever the length of a feature. Shapes as in `knn_predict`.
    """
    centre, middle = fitted.mean(dim=0), targets.float().mean(dim=0)
    known = fitted - centre
    gram = (known @ known.T).double()
    level = gram.diagonal().mean().clamp(min=_TINY)
    gram.diagonal().add_(strength * level)
    weights = torch.linalg.solve(gram, (targets.float() - middle).double())
    dual = known.T @ weights.float()  # (D, T)
    predicted = [
        (part - centre) @ dual + middle for part in torch.split(queries, QUERIES_PER_PRODUCT)
    ]
    return torch.cat(predicted)
