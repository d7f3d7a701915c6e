"""Signals that tell whether a network learns: of the cosines, the teacher, and the weights.

They are collected beside the losses, and no loss depends on them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from voco_models.objectives.collapse import effective_rank

SAMPLES_PER_TENSOR = 256
"""Weights of a tensor whose movement is measured, evenly spaced."""


@dataclass(frozen=True, slots=True)
class Signals:
    """The signals of some steps, on the CPU."""

    sums: Tensor
    """float64 (6, m): sums of 1, r, s, r^2, s^2 and r s over all random crops, for each base crop,
    with the target r and the cosine s."""
    teacher_rank: float
    """Mean effective rank of the teacher's embeddings of base crops."""


class AgreementSignals:
    """Sums over steps, on the device: how cosines follow their targets, and the teacher's rank.

    A network can fit how much random crops overlap each base crop on average, without looking at
    the crops. So the sums are kept for each of the m base crops; see `within_correlation`.
    """

    def __init__(self) -> None:
        self._sums: Tensor | None = None
        self._ranks: Tensor | None = None
        self._steps = 0

    @torch.no_grad()
    def add(self, cosine: Tensor, target: Tensor, teacher_base: Tensor) -> None:
        """Add a step: cosines and targets (..., n, m), and the teacher's base crops (..., m, D)."""
        s = cosine.detach().double().flatten(end_dim=-2)  # (rows, m)
        r = target.double().flatten(end_dim=-2)
        values = torch.stack([torch.ones_like(s), r, s, r * r, s * s, r * s])  # (6, rows, m)
        sums, rank = values.sum(dim=1), effective_rank(teacher_base.detach())
        self._sums = sums if self._sums is None else self._sums + sums
        self._ranks = rank if self._ranks is None else self._ranks + rank
        self._steps += 1

    def take(self) -> Signals | None:
        """The signals since the last call; None if no step was added. Waits for the device."""
        if self._sums is None or self._ranks is None:
            return None
        signals = Signals(self._sums.cpu(), self._ranks.item() / self._steps)
        self._sums = self._ranks = None
        self._steps = 0
        return signals


def within_correlation(sums: Tensor) -> float:
    """Correlation of cosines with targets within base crops, from sums (6, m).

    sum_j cov(r_j, s_j) / sqrt(sum_j var(r_j) * sum_j var(s_j)) over the base crops j. It is 0 where
    crops and targets are unrelated, also if every cosine is the mean target of its base crop, and
    where the cosines of each base crop are constant.
    """
    count, r, s, rr, ss, rs = sums
    covariance = (rs - r * s / count).sum().item()
    r_spread, s_spread = ((rr - r * r / count).sum(), (ss - s * s / count).sum())
    # Equal cosines leave the rounding error of float64, relative to the sum of squares.
    if s_spread <= 1e-12 * ss.sum() or r_spread <= 1e-12 * rr.sum():
        return 0.0
    return float(covariance / (r_spread * s_spread).sqrt())


class WeightMovement:
    """How far weights have moved from where they were when this was made, by part.

    It keeps `SAMPLES_PER_TENSOR` weights of each trainable tensor.
    """

    def __init__(self, parts: Mapping[str, nn.Module]) -> None:
        self._parameters = {
            name: [p for p in part.parameters() if p.requires_grad] for name, part in parts.items()
        }
        self._starts = {name: self._sample(name) for name in parts}

    def measure(self) -> dict[str, float]:
        """||w - w0|| / ||w0|| of each part. Waits for the device."""
        return {
            name: float((self._sample(name) - start).norm() / start.norm().clamp(min=1e-12))
            for name, start in self._starts.items()
        }

    @torch.no_grad()
    def _sample(self, name: str) -> Tensor:
        """float64 (samples,), on the CPU."""
        samples = []
        for parameter in self._parameters[name]:
            flat = parameter.detach().flatten()
            samples.append(flat[:: max(1, len(flat) // SAMPLES_PER_TENSOR)][:SAMPLES_PER_TENSOR])
        return torch.cat(samples).double().cpu() if samples else torch.zeros(0).double()
