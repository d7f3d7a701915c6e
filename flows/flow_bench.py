"""`voco bench flow`: a stage called as a Prefect flow, beside the same call without Prefect."""

from __future__ import annotations

import os
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from flows.embedded import isolate_prefect, start_server
from voco_data import ingest
from voco_data.temporary_folders import temporary_folder
from voco_models import stages

REPEATS = 5
STEPS = 20
"""Steps of each pretraining."""

Call = Callable[[Path], object]


def bench(*, patients: int = 8, repeats: int = REPEATS) -> dict[str, object]:
    """Time preprocessing of a made-up archive and a short pretraining, plain and as flows.

    Both calls of a pair get folders of their own, in turn. The server is started before, and the
    first pair is not counted: start-up is apart. Returns `rows`: medians in seconds.
    """
    with temporary_folder() as folder:
        start = time.perf_counter()
        isolate_prefect(folder)
        start_server()
        from flows.preprocess import preprocess
        from flows.pretrain import pretrain
        from voco_data.phantom import cohort

        started = time.perf_counter() - start
        spec = cohort.CohortSpec(patients=patients, unlabelled=0, matrix=128, slices=48)
        archive = cohort.write_cohort(spec, folder / "cohort").ratic
        ingest.preprocess(archive, folder / "stores", specs=("pretrain",))
        store = next((folder / "stores").glob("*.zarr"))
        changes = (f"fit.total_steps={STEPS}", "fit.warmup_steps=1")
        rows: list[dict[str, object]] = [
            {"stage": "preprocess", "work": f"{patients} series"}
            | compare(
                lambda out: ingest.preprocess(archive, out, workers=1),
                lambda out: preprocess(archive, out, workers=1),
                folder,
                repeats,
            ),
            {"stage": "pretrain", "work": f"{STEPS} steps of tiny"}
            | compare(
                lambda out: stages.pretrain([store], out, recipe="tiny", changes=changes),
                lambda out: pretrain([store], out, recipe="tiny", changes=changes),
                folder,
                repeats,
            ),
        ]
    machine = {"cores": len(os.sched_getaffinity(0)), "python": platform.python_version()}
    return {"rows": rows, "start_s": round(started, 2), "machine": machine}


def compare(plain: Call, as_flow: Call, folder: Path, repeats: int) -> dict[str, object]:
    """Median seconds of both calls, and of the difference of each pair. One pair is a warm-up."""
    taken: dict[str, list[float]] = {"plain": [], "flow": []}
    for number in range(repeats + 1):
        for name, call in (("plain", plain), ("flow", as_flow)):
            with tempfile.TemporaryDirectory(dir=folder) as out:
                start = time.perf_counter()
                call(Path(out) / str(number))
                taken[name].append(time.perf_counter() - start)
    pairs = list(zip(taken["plain"][1:], taken["flow"][1:], strict=True))
    return {
        "plain_s": round(median(plain for plain, _ in pairs), 3),
        "flow_s": round(median(flow for _, flow in pairs), 3),
        "overhead_s": round(median(flow - plain for plain, flow in pairs), 3),
    }
