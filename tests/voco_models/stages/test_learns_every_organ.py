"""The gate of the classifier: on the demo's cohort, from scratch, it learns every organ."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from flows.demo_recipes import TINY
from voco_data.ingest import preprocess
from voco_data.phantom.cohort import CohortSpec, write_cohort
from voco_data.store import Store
from voco_models.stages import evaluate, finetune


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", range(4))
def test_each_organ_beats_its_best_constant(tmp_path: Path, seed: int) -> None:
    """The whole interval of each organ's gain is above 0. Some 4 minutes a seed on two cores."""
    spec = CohortSpec(
        patients=TINY.patients,
        unlabelled=0,
        matrix=TINY.matrix,
        slices=TINY.slices,
        injury_prevalence=TINY.prevalence,
        seed=seed,
    )
    cohort = write_cohort(spec, tmp_path / "cohort", workers=len(os.sched_getaffinity(0)))
    made = preprocess(cohort.ratic, tmp_path / "stores", layout="ratic", specs=("finetune",))
    store = Store.open(made.stores["finetune"])
    run = tmp_path / "run"
    summary = finetune(store, cohort.labels, run, init="scratch", recipe=TINY.finetune)
    assert summary.finished
    gains = evaluate(run).organ_gains
    print(seed, gains)
    assert all(gain.low > 0 for gain in gains.values()), gains
