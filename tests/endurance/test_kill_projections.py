"""kill -9 during an experiment of 3D-to-2D networks: a rerun ends with the same results."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.support.killed_experiment import run_and_kill
from tests.support.small_projections import DECLARATION, declare_projections
from voco_models.experiments.experiment import run_experiment

TEXT = DECLARATION.replace("[2, 4]", "[2]").replace("[0, 1]", "[0]").split("[arms.maximum_s")[0]
"""Three trials: from random weights, with the summed steps, and after a pretext."""


def results(file: Path) -> dict[str, bytes]:
    """The weights and scores of all runs, and the tables."""
    out = file.parent / "out"
    paths = [*out.glob("runs/*/*.safetensors"), *out.glob("runs/*/*.parquet"), out / "tables.md"]
    return {str(path.relative_to(out)): path.read_bytes() for path in paths}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, bytes], float]:
    """The results, and how long they took."""
    file = declare_projections(tmp_path_factory.mktemp("undisturbed"), TEXT)
    start = time.monotonic()
    assert not run_and_kill(file, 250)
    return results(file), time.monotonic() - start


@pytest.mark.parametrize(
    "share",
    [0.5, *(pytest.param(n / 10, marks=pytest.mark.slow) for n in (1, 2, 3, 4, 6, 7, 8, 9))],
)
def test_a_killed_experiment_is_continued(
    tmp_path: Path, undisturbed: tuple[dict[str, bytes], float], share: float
) -> None:
    expected, seconds = undisturbed
    file = declare_projections(tmp_path, TEXT)
    run_and_kill(file, share * seconds)
    assert not run_and_kill(file, 250)
    assert run_experiment(file, plan_only=True).reused == 3
    assert results(file) == expected
