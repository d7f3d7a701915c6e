"""kill -9 during an experiment: a rerun ends with the predictions of an undisturbed one."""

from __future__ import annotations

import time
from pathlib import Path

import pandas as pd
import pytest

from tests.support.killed_experiment import run_and_kill
from tests.support.precision import one_thread
from tests.support.small_experiment import DECLARATION, declare
from tests.support.undrawn import drawing
from voco_models.experiments.declaration import read_experiment
from voco_models.experiments.experiment import run_experiment
from voco_models.experiments.jobs import list_trials

TEXT = DECLARATION.replace("[0, 1]", "[0]").replace("[0.6, 1.0]", "[1.0]")


def results(file: Path) -> list[pd.DataFrame]:
    return [
        pd.read_parquet(job.folder / "predictions.parquet")
        for trial in list_trials(read_experiment(file))
        for job in trial.jobs
    ]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[pd.DataFrame], float]:
    """The predictions, and how long the runs took."""
    file = declare(tmp_path_factory.mktemp("undisturbed"), TEXT)
    start = time.monotonic()
    with one_thread(), drawing():  # as the command does
        run_experiment(file)
    return results(file), time.monotonic() - start


@pytest.mark.parametrize(
    "share", [0.5, *(pytest.param(n / 20, marks=pytest.mark.slow) for n in range(1, 20) if n != 10)]
)
def test_a_killed_experiment_is_continued(
    tmp_path: Path, undisturbed: tuple[list[pd.DataFrame], float], share: float
) -> None:
    expected, seconds = undisturbed
    file = declare(tmp_path, TEXT)
    run_and_kill(file, share * seconds)
    with one_thread():
        run_experiment(file)
    assert run_experiment(file, plan_only=True).reused == 2
    for found, wanted in zip(results(file), expected, strict=True):
        pd.testing.assert_frame_equal(found, wanted)
    looks = [p.read_text() for p in (tmp_path / "out/runs").glob("*/evaluations.json")]
    assert len(looks) == 2
    assert all(text.count('"time"') == 1 for text in looks)  # the test set was opened once
