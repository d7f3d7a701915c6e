"""A step in two processes is the step of one process with the joined batch.

The processes are real: `torchrun` starts them, and they communicate by gloo. Where there is a GPU,
the steps are also taken on it: both processes share it, which NCCL does not allow.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support import distributed_step
from tests.support.distributed_step import VARIANTS
from tests.support.precision import one_thread
from tests.support.torchrun import torchrun

TOLERANCE = 1e-5

pytestmark = pytest.mark.xdist_group("a step in two processes")  # one start of them

Steps = dict[str, Any]


DEVICES = ["cpu", *(["cuda:0"] if torch.cuda.is_available() else [])]


@pytest.fixture(scope="module", params=DEVICES)
def steps(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Steps]:
    """The results of one process, and of each of two."""
    folder = tmp_path_factory.mktemp("steps")
    with one_thread():
        distributed_step.main(folder, torch.device(request.param))
    done = torchrun([str(Path(distributed_step.__file__)), str(folder), request.param])
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    return {
        path.stem: torch.load(path, map_location="cpu", weights_only=True)
        for path in sorted(folder.glob("*.pt"))
    }


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
