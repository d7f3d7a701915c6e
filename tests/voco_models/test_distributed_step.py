"""A step in two processes is the step of one process with the joined batch.

The processes are real: `torchrun` starts them, and they communicate by gloo.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support import distributed_step
from tests.support.distributed_step import VARIANTS
from tests.support.torchrun import one_process, torchrun

TOLERANCE = 1e-5

Steps = dict[str, Any]


@pytest.fixture(scope="module")
def steps(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Steps]:
    """The results of one process, and of each of two."""
    folder = tmp_path_factory.mktemp("steps")
    script = str(Path(distributed_step.__file__))
    for done in (one_process([script, str(folder)]), torchrun([script, str(folder)])):
        assert done.returncode == 0, done.stderr
    return {path.stem: torch.load(path, weights_only=True) for path in sorted(folder.glob("*.pt"))}


@pytest.mark.parametrize("variant", VARIANTS)
def test_two_processes_have_the_losses_of_the_joined_batch(
    steps: dict[str, Steps], variant: str
) -> None:
    assert set(steps) == {"1-0", "2-0", "2-1"}
    expected = steps["1-0"][variant]["scalars"]
    for each in ("2-0", "2-1"):
        torch.testing.assert_close(
            steps[each][variant]["scalars"], expected, rtol=TOLERANCE, atol=TOLERANCE
        )


@pytest.mark.parametrize("variant", VARIANTS)
def test_two_processes_have_the_gradients_of_the_joined_batch(
    steps: dict[str, Steps], variant: str
) -> None:
    expected = steps["1-0"][variant]["gradients"]
    assert sum(float(g.abs().sum()) for g in expected.values()) > 0
    for each in ("2-0", "2-1"):
        torch.testing.assert_close(
            steps[each][variant]["gradients"], expected, rtol=TOLERANCE, atol=TOLERANCE
        )
    for name, gradient in steps["2-0"][variant]["gradients"].items():
        assert torch.equal(gradient, steps["2-1"][variant]["gradients"][name]), name


@pytest.mark.parametrize("variant", VARIANTS)
def test_running_statistics_are_those_of_the_joined_batch(
    steps: dict[str, Steps], variant: str
) -> None:
    for each in ("2-0", "2-1"):
        torch.testing.assert_close(
            steps[each][variant]["buffers"],
            steps["1-0"][variant]["buffers"],
            rtol=TOLERANCE,
            atol=TOLERANCE,
        )
