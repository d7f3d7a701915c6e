"""Nearest neighbours and ridge against scikit-learn's, and ranks against known spectra."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from sklearn.neighbors import KNeighborsRegressor

from voco_models.probes.predictors import QUERIES_PER_PRODUCT, knn_predict, ridge_predict
from voco_models.probes.rank import effective_rank, rank_me


def features(n: int, seed: int, d: int = 30) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed)) + 3


@pytest.mark.parametrize("neighbours", [1, 5, 200])
def test_nearest_neighbours_by_cosine_of_centred_features(neighbours: int) -> None:
    fitted, queries = features(80, 0), features(QUERIES_PER_PRODUCT + 7, 1)
    targets = features(80, 2, 2)
    centre = fitted.mean(dim=0)
    model = KNeighborsRegressor(min(neighbours, 80), metric="cosine", algorithm="brute")
    model.fit((fitted - centre).numpy(), targets.numpy())
    expected = model.predict((queries - centre).numpy())
    found = knn_predict(fitted, targets, queries, neighbours)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(("n", "d"), [(80, 30), (40, 200)])
def test_ridge(n: int, d: int) -> None:
    fitted, queries, targets = features(n, 0, d), features(25, 1, d), features(n, 2, 2)
    level = float((fitted - fitted.mean(dim=0)).square().sum(dim=1).mean())
    model = Ridge(alpha=0.01 * level).fit(fitted.double().numpy(), targets.double().numpy())
    found = ridge_predict(fitted, targets, queries, 0.01)
    np.testing.assert_allclose(found, model.predict(queries.double().numpy()), atol=1e-3)


def test_equal_features_predict_the_mean() -> None:
    targets = torch.tensor([[0.0], [4.0]])
    same = torch.ones(2, 3)
    assert ridge_predict(same, targets, same, 0.01).flatten().tolist() == [2.0, 2.0]


def test_ranks_of_known_spectra() -> None:
    orthogonal = torch.eye(8)
    assert rank_me(orthogonal) == pytest.approx(8, rel=1e-4)
    one = torch.outer(torch.arange(1.0, 9.0), torch.ones(5))
    assert rank_me(one) == pytest.approx(1, abs=1e-3)
    assert effective_rank(one) == pytest.approx(1, abs=1e-6)
    assert effective_rank(torch.ones(4, 3)) == 0
    # Points at +-1 on four axes: the covariance is a multiple of the identity, of rank 4.
    cross = torch.cat([torch.eye(4), -torch.eye(4)])
    assert effective_rank(cross) == pytest.approx(4, rel=1e-6)
    # Eigenvalues 9 and 1: (9 + 1)^2 / (81 + 1).
    axes = torch.tensor([[3.0, 0.0], [-3.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    assert effective_rank(axes) == pytest.approx(100 / 82, rel=1e-6)
