"""made-up cohort → organ boxes from few masks → volumes: the flow `localiser-demo`."""

from __future__ import annotations

import os
import time
from pathlib import Path

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from flows.artifacts import publish
from flows.demo import next_run_folder
from flows.demo_recipes import TINY_LOCALISER
from flows.localise import localise
from flows.preprocess import preprocess
from flows.project import project
from flows.run_names import name_run
from flows.summary import Summary
from voco_data import selection
from voco_data.storage import REPORT, RUNS_FOLDER

BOXES = "boxes.csv"


@task(name="write harder cohort", cache_policy=NO_CACHE)
def write_cohort(folder: Path, seed: int) -> Path:
    """Make the recipe's cohort in `folder`, an archive in RATIC's layout; returns its folder."""
    from voco_data.phantom import cohort, domains

    spec = cohort.CohortSpec(
        patients=TINY_LOCALISER.patients,
        unlabelled=0,
        matrix=TINY_LOCALISER.matrix,
        slices=TINY_LOCALISER.slices,
        segmentation_fraction=TINY_LOCALISER.mask_share,
        domains=tuple(domains.DOMAINS),
        seed=seed,
    )
    return cohort.write_cohort(spec, folder, workers=len(os.sched_getaffinity(0))).ratic


@task(name="split all patients", cache_policy=NO_CACHE)
def split_patients(store: str, out: Path) -> Path:
    """Make the split file `out` of all patients of the store, or append new ones."""
    selection.update_split(store, out, test_share=TINY_LOCALISER.test_share)
    return out


def find_boxes(run: Path, store: str, archive: Path) -> Summary:
    """Find and score the boxes of all series: the flow `localise` with the demo's recipe."""
    return localise(
        run / "project",
        store,
        run / BOXES,
        margin_mm=TINY_LOCALISER.margin_mm,
        score=True,
        archive=archive,
        layout="ratic",
        pictures=TINY_LOCALISER.pictures,
    )


@task(name="write report", cache_policy=NO_CACHE)
def write_report(run: Path, seed: int, root: Path, boxed: Summary) -> Path:
    """Write a page about the whole run, with links to its other pages; returns its path."""
    from flows.localiser_demo_report import localiser_page  # here: it imports the stages

    report = run / REPORT
    report.write_text(
        localiser_page(TINY_LOCALISER, seed, run, root, Path(str(boxed["ledger"])), BOXES)
    )
    return report


@flow(name="localiser-demo", flow_run_name=name_run)
def localiser_demo(root: Path = Path("demo-localiser"), seed: int | None = None) -> Summary:
    """Find organs in a made-up cohort from few masks, use the boxes, and write a report.

    Args:
        root: Folder for the cohort, the stores and the runs; a second run reuses the stores.
        seed: Seed of the cohort, instead of the recipe's. Each has a folder of its own.
    """
    began, recipe = time.monotonic(), TINY_LOCALISER
    seed = recipe.seed if seed is None else seed
    folder = root / f"seed-{seed}"
    run, stores = next_run_folder(folder / RUNS_FOLDER), folder / "stores"
    archive = write_cohort(folder / "cohort", seed)
    scans = preprocess(archive, stores, layout="ratic", specs=("localise",))
    store = scans["stores"]["localise"]
    split = split_patients(store, folder / "split.json")
    changes = (f"masks={recipe.masks}",)
    project([store], run / "project", recipe=recipe.project, changes=changes, split=split)
    found = find_boxes(run, store, archive)
    boxed = preprocess(
        archive, stores, layout="ratic", specs=("pretrain",), boxes=Path(str(found["out"]))
    )
    report = write_report(run, seed, stores, boxed)
    summary = localiser_summary(scans, found, run, report, time.monotonic() - began)
    publish("localiser-demo", summary, link=report)
    return summary


def localiser_summary(
    scans: Summary, found: Summary, run: Path, report: Path, seconds: float
) -> Summary:
    """Counts of the archive, scores of the boxes over all organs, and the paths."""
    (scores,) = (row for row in found["scores"]["organs"] if row["organ"] == "all")
    return {
        **{name: scans[name] for name in ("series", "stored", "cached", "refused")},
        "found": found["found"],
        "boxes": scores,
        "seconds": round(seconds, 1),
        "run": str(run),
        "report": str(report),
    }
