"""The pretext on volumes that are not trained on, during training."""

from __future__ import annotations

from collections.abc import Iterator

from voco_models.data import Batch, Loader
from voco_models.objectives.signals import AgreementSignals, within_correlation
from voco_models.objectives.voco2d import Voco2d
from voco_models.training import Objective

LOGGED = {"intra": "intra", "intra_student": "intra_student", "rank": "student_rank"}
"""Scalar of the objective -> name in a row of the probes."""


class HeldOutProbe:
    """A probe of `ProbeMonitor`: losses and ranks on held-out volumes, and the correlation.

    The volumes, their order and their random crops are the same at every call, so that a difference
    between two rows comes from the weights. Batch norm uses the statistics of the batch, as in
    training.
    """

    def __init__(self, loader: Loader, batches: int) -> None:
        """Look at `batches` batches of the loader."""
        self._loader = loader
        self._batches = batches

    def __call__(self, step: int, objective: Objective) -> dict[str, float]:
        """Means over the batches: intra losses, and the ranks of student and of teacher."""
        del step
        assert isinstance(objective, Voco2d)
        objective.train()
        signals = AgreementSignals()
        scalars = [objective.measure(batch, signals) for batch in self._first_batches()]
        taken = signals.take()
        assert taken is not None
        means = {
            column: sum(float(s[name]) for s in scalars) / len(scalars)
            for name, column in LOGGED.items()
            if name in scalars[0]
        }
        return {
            **means,
            "teacher_rank": taken.teacher_rank,
            "correlation": within_correlation(taken.sums),
        }

    def _first_batches(self) -> Iterator[Batch]:
        stream = self._loader.batches_from(0)
        try:
            for _ in range(self._batches):
                yield next(stream)
        finally:
            stream.close()
