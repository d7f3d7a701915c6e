"""The losses did not change when the random draws did.

Until November 2026, one generator drew for a whole batch; now each volume has its own. With the
former draws put in, training has the losses that were kept before (`former-draws.json`).
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.golden import compare, curves
from tests.golden.stores import make_stores
from tests.golden.test_curves import FIRST_STEPS, first_steps, kept_first
from voco_models.data.loader import Batch
from voco_models.objectives.draws import StepDraws
from voco_models.objectives.voco2d import Voco2d

KEPT = compare.HERE / "former-draws.json"
CASE = "pretrain-tiny"


def former_draws(objective: Voco2d, batch: Batch) -> StepDraws:
    """The draws of a batch by one generator, of a recipe without augmentation."""
    generator = torch.Generator().manual_seed(batch.seed)
    random = objective.plan.draw_boxes(len(batch.volumes), generator)
    stride = min(objective.config.slice_stride, batch.volumes.shape[1])
    first = int(torch.randint(stride, (), generator=generator))
    return StepDraws(random, (first, first), None, (), None)


@pytest.mark.timeout(300)
def test_with_the_former_draws_the_losses_are_the_former_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_stores(tmp_path)
    before = json.loads(KEPT.read_text())
    same = json.loads(compare.PLATFORM.read_text()) == curves.describe_platform()
    # On another platform, float32 is rounded otherwise, and training amplifies that.
    steps, tolerance = (FIRST_STEPS, 0.0) if same else (1, 1e-4)
    expected = {name: values[:steps] for name, values in before.items()}

    now = {name: values[:steps] for name, values in kept_first(CASE, "float32").items()}
    assert compare.differences(expected, now, tolerance=1e-3)

    monkeypatch.setattr(Voco2d, "draw", former_draws)
    former = first_steps(CASE, tmp_path, steps=steps)
    found = {name: values[:steps] for name, values in former.items()}
    assert compare.differences(expected, found, tolerance=tolerance) == []
