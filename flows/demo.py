"""made-up cohort → all stages → one report: the flow `demo`."""

from __future__ import annotations

import json
import logging
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from flows.artifacts import publish
from flows.demo_recipes import TINY
from flows.evaluate import evaluate
from flows.explain import explain
from flows.finetune import finetune
from flows.predict import predict
from flows.preprocess import preprocess
from flows.pretrain import pretrain
from flows.run_names import name_run
from flows.split import update_split
from flows.summary import Summary, to_json_values
from voco_data.storage import REPORT, RUNS_FOLDER
from voco_models import stages

log = logging.getLogger(__name__)

Cohort: TypeAlias = dict[str, Path]
"""Paths of the synthetic cohort: `ratic`, `flare` and `labels`; `new` holds more patients."""


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
    later = replace(
        spec,
        first_patient=spec.patients,
        patients=TINY.new_patients,
        unlabelled=0,
        segmentation_fraction=0.0,
    )
    log.info("made-up cohort: %d patients, %d scans more", spec.patients, spec.unlabelled)
    paths = cohort.write_cohort(spec, folder, workers=len(os.sched_getaffinity(0)))
    new = cohort.write_cohort(later, folder / "new")
    return {"ratic": paths.ratic, "flare": paths.flare, "labels": paths.labels, "new": new.ratic}


def train_classifier(store: str, labels: Path, split: Path, run: Path) -> None:
    """Fine-tune from the run's pretraining: the flow `finetune` with the demo's recipe."""
    finetune(
        store,
        labels,
        run / "finetune",
        init=str(run / "pretrain"),
        recipe=TINY.finetune,
        changes=TINY.finetune_changes,
        split=split,
    )


@task(name="write card", cache_policy=NO_CACHE)
def write_card(run: Path, out: Path) -> None:
    """Write the model card and the weights of the run to the folder `out`."""
    stages.make_model_card(run, out)


@task(name="compare heads", cache_policy=NO_CACHE)
def compare_heads(store: str, labels: Path, split: Path, run: Path) -> None:
    """Train all heads on features of the pretrained backbone; `heads.json` has their scores."""
    from voco_models.bench import heads

    table = heads.bench(
        store,
        labels,
        init=run / "pretrain",
        recipe=TINY.finetune,
        changes=[f"epochs={TINY.head_epochs}"],
        split=split,
        seeds=1,
        stages=False,
        cache=run / "head-features",
    )
    (run / "heads.json").write_text(json.dumps(to_json_values(table), indent=2) + "\n")


@task(name="compare arms", cache_policy=NO_CACHE)
def compare_arms(store: str, labels: Path, split: Path, run: Path) -> None:
    """Train a small experiment: from scratch and pretrained, with few and with all labels."""
    from voco_models import experiments

    declared = experiments.Experiment(
        store=store,
        labels=str(labels),
        split=str(split),
        out=str(run / "experiment"),
        arms={"scratch": experiments.Arm(), "voco": experiments.Arm(init=str(run / "pretrain"))},
        reference="scratch",
        recipe=TINY.finetune,
        changes=TINY.experiment_changes,
        seeds=(TINY.seed,),
        label_fractions=TINY.label_fractions,
    )
    summary = experiments.run_experiment(declared, resident="ram")
    (run / "experiment.json").write_text(json.dumps(to_json_values(summary.to_json())) + "\n")


@task(name="write report", cache_policy=NO_CACHE)
def write_report(
    run: Path, seed: int, root: Path, archives: dict[str, Summary], new_labels: Path
) -> Path:
    """Write a page about the whole run, with links to its other pages; returns its path.

    `archives` are the summaries of preprocessing, by the name of the archive.
    """
    from flows.demo_report import demo_page  # here: it imports the packages of the stages

    report = run / REPORT
    ledgers = {name: str(summary["ledger"]) for name, summary in archives.items()}
    report.write_text(demo_page(TINY, seed, run, root, ledgers, new_labels))
    return report


def next_run_folder(runs: Path) -> Path:
    """`runs/demo-1`, `runs/demo-2`, ...: the first that does not exist."""
    number = 1
    while (runs / f"demo-{number}").exists():
        number += 1
    return runs / f"demo-{number}"


@flow(name="demo", flow_run_name=name_run)
def demo(root: Path = Path("demo"), seed: int | None = None) -> Summary:
    """Run the whole pipeline on a made-up cohort and write a report.

    Args:
        root: Folder for the cohort, the stores and the runs; a second run reuses the stores.
        seed: Seed of the cohort, instead of the recipe's. Each has a folder of its own.
    """
    began, seed = time.monotonic(), TINY.seed if seed is None else seed
    folder = root / f"seed-{seed}"
    run = next_run_folder(folder / RUNS_FOLDER)
    stores = folder / "stores"
    cohort = write_cohort(folder / "cohort", seed)
    labelled = preprocess(cohort["ratic"], stores, layout="ratic")
    unlabelled = preprocess(cohort["flare"], stores, layout="flare", specs=("pretrain",))
    store, labels = labelled["stores"]["finetune"], cohort["labels"]
    split = update_split(store, labels, folder / "split.json", TINY.finetune)
    pretrain([labelled["stores"]["pretrain"]], run / "pretrain", recipe=TINY.pretrain, split=split)
    train_classifier(store, labels, split, run)
    scores = evaluate(run / "finetune")
    explain(run / "finetune", store, run / "explanation", patients=TINY.explained_patients)
    predict(run / "finetune", cohort["new"], run / "predictions", layout="ratic")
    write_card(run / "finetune", run / "card")
    compare_heads(store, labels, split, run)
    compare_arms(store, labels, split, run)
    archives = {"RATIC": labelled, "FLARE23": unlabelled}
    report = write_report(run, seed, stores, archives, cohort["new"] / "train.csv")
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
