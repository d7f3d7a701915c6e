"""made-up cohort → all stages → one report: the flow `demo`."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path
from typing import TypeAlias

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from flows.artifacts import publish
from flows.demo_recipes import TINY
from flows.evaluate import evaluate
from flows.finetune import finetune
from flows.preprocess import preprocess
from flows.pretrain import pretrain
from flows.split import update_split
from flows.summary import Summary
from voco_data.storage import REPORT, RUNS_FOLDER

log = logging.getLogger(__name__)

Cohort: TypeAlias = dict[str, Path]
"""Paths of the synthetic cohort: `ratic`, `flare` and `labels`."""


@task(name="write cohort", cache_policy=NO_CACHE)
def write_cohort(folder: Path, seed: int) -> Cohort:
    """Make the recipe's cohort in `folder`; an existing one stays as it is."""
    from voco_data.phantom import cohort

    spec = cohort.CohortSpec(
        patients=TINY.patients,
        unlabelled=TINY.unlabelled,
        matrix=TINY.matrix,
        slices=TINY.slices,
        injury_prevalence=TINY.prevalence,
        seed=seed,
    )
    log.info("made-up cohort: %d patients, %d scans more", spec.patients, spec.unlabelled)
    paths = cohort.write_cohort(spec, folder, workers=len(os.sched_getaffinity(0)))
    return {"ratic": paths.ratic, "flare": paths.flare, "labels": paths.labels}


@task(name="write report", cache_policy=NO_CACHE)
def write_report(run: Path, seed: int, root: Path, ledgers: dict[str, str]) -> Path:
    """Write a page about the archives, the training and the scores; returns its path."""
    from flows.demo_report import demo_page  # here: it imports the packages of the stages

    report = run / REPORT
    report.write_text(demo_page(TINY, seed, run, root, ledgers))
    return report


def next_run_folder(runs: Path) -> Path:
    """`runs/demo-1`, `runs/demo-2`, ...: the first that does not exist."""
    number = 1
    while (runs / f"demo-{number}").exists():
        number += 1
    return runs / f"demo-{number}"


@flow(name="demo")
def demo(root: Path = Path("demo"), seed: int | None = None) -> Summary:
    """Run the whole pipeline on a made-up cohort and write a report.

    Args:
        root: Folder for the cohort, the stores and the runs; a second run reuses the stores.
        seed: Seed of the cohort, instead of the recipe's. Each has a folder of its own.
    """
    began = time.monotonic()
    seed = TINY.seed if seed is None else seed
    folder = root / f"seed-{seed}"
    run = next_run_folder(folder / RUNS_FOLDER)
    stores = folder / "stores"
    cohort = write_cohort(folder / "cohort", seed)
    labelled = preprocess(cohort["ratic"], stores, layout="ratic")
    unlabelled = preprocess(cohort["flare"], stores, layout="flare", specs=("pretrain",))
    store, labels = labelled["stores"]["finetune"], cohort["labels"]
    split = update_split(store, labels, folder / "split.json", TINY.finetune)
    pretrain([labelled["stores"]["pretrain"]], run / "pretrain", recipe=TINY.pretrain, split=split)
    init = str(run / "pretrain")
    finetune(store, labels, run / "finetune", init=init, recipe=TINY.finetune, split=split)
    scores = evaluate(run / "finetune")
    ledgers = {"RATIC": labelled["ledger"], "FLARE23": unlabelled["ledger"]}
    report = write_report(run, seed, stores, ledgers)
    summary = demo_summary(labelled, unlabelled, scores, run, report, time.monotonic() - began)
    publish("demo", summary, link=report)
    return summary


def demo_summary(
    labelled: Summary, unlabelled: Summary, scores: Summary, run: Path, report: Path, seconds: float
) -> Summary:
    """Counts of both archives together, the scores, and the paths."""
    count_names = ("series", "stored", "cached", "refused")
    return {
        **{name: labelled[name] + unlabelled[name] for name in count_names},
        "stores": labelled["stores"],
        "evaluate": scores,
        "seconds": round(seconds, 1),
        "run": str(run),
        "report": str(report),
    }
