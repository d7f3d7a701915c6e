"""One function for each subcommand: it takes the options and returns the summary.

Stages are loaded when they are called (see the packages' stubs), so `voco --help` starts at once,
and a machine without torch can preprocess.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, Final

from flows import bench_verbs
from flows.archive_masks import open_masks
from flows.drift_steps import watch_champion
from flows.ids import patient_pseudonymiser
from flows.prediction_steps import predict_source
from flows.retention_steps import remove_what_is_old
from voco_data import erasure, ingest, maintenance, paired_images, selection, withdrawal
from voco_data.ingest import IngestOptions
from voco_data.store import choose_store, choose_stores
from voco_models import stages


def demo(args: argparse.Namespace) -> Mapping[str, object]:
    """Run a demo flow with an embedded Prefect, whose home is in the demo's folder."""
    from flows.embedded import isolate_prefect, start_server

    is_localiser = args.part == "localiser"
    root = args.root or Path("demo-localiser" if is_localiser else "demo")
    isolate_prefect(root)
    start_server()
    if is_localiser:
        from flows.localiser_demo import localiser_demo

        return localiser_demo(root, seed=args.seed)
    from flows.demo import demo as demo_flow

    return demo_flow(root, seed=args.seed)


def preprocess(args: argparse.Namespace) -> Mapping[str, object]:
    """Fill the stores of an archive, or estimate what that takes."""
    options = _ingest_options(args)
    if args.estimate:
        return ingest.estimate(args.source, args.root, options).to_json()
    return ingest.preprocess(args.source, args.root, options).to_json()


def _ingest_options(args: argparse.Namespace) -> IngestOptions:
    """The options of the command line; one that was left out keeps its default."""
    names = {field.name for field in fields(IngestOptions)}
    given: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in vars(args).items()
        if name in names and value is not None
    }
    return IngestOptions(**given, progress=True)


def store(args: argparse.Namespace) -> Mapping[str, object]:
    """Look at stores, describe them, clean up, export a volume, erase a patient."""
    return STORE_ACTIONS[args.action](args)


def _ls(args: argparse.Namespace) -> Mapping[str, object]:
    return maintenance.list_stores(args.root)


def _info(args: argparse.Namespace) -> Mapping[str, object]:
    return maintenance.describe_store(args.store)


def _verify(args: argparse.Namespace) -> Mapping[str, object]:
    return maintenance.verify_store(args.store).to_json()


def run(args: argparse.Namespace) -> Mapping[str, object]:
    """Check the files of training runs."""
    from voco_models import tracking

    return tracking.verify_runs(args.runs).to_json()


def _gc(args: argparse.Namespace) -> Mapping[str, object]:
    return maintenance.collect_garbage(
        args.root, stores=args.store, keep_runs=args.keep_runs, yes=args.yes, wait=args.wait
    ).to_json()


def _export(args: argparse.Namespace) -> Mapping[str, object]:
    return maintenance.export_volume(args.store, args.row, args.out).to_json()


def _store_card(args: argparse.Namespace) -> Mapping[str, object]:
    publication = maintenance.Publication(
        licence=args.licence,
        name=args.name,
        url=args.url,
        creator=args.creator,
        citation=args.citation,
        published=args.published,
    )
    return maintenance.write_store_card(
        args.store,
        args.out,
        publication=publication,
        labels=args.labels,
        pseudonymise=None if args.labels is None else patient_pseudonymiser(args.store),
    ).to_json()


def _forget(args: argparse.Namespace) -> Mapping[str, object]:
    return erasure.forget_patient(args.root, args.patient, yes=args.yes, wait=args.wait).to_json()


def forget(args: argparse.Namespace) -> Mapping[str, object]:
    """Forget a patient under a root, in runs and in splits."""
    from voco_models import tracking

    return withdrawal.forget_everywhere(
        args.root,
        args.patient,
        runs=args.runs,
        splits=args.splits,
        receipt=args.receipt,
        yes=args.yes,
        wait=args.wait,
        champions=tracking.find_champions(args.runs),
    )


def split(args: argparse.Namespace) -> Mapping[str, object]:
    """Make a split file, or append the patients that it lacks."""
    store = choose_store(args.store, "finetune")
    return selection.update_split(
        store,
        args.out,
        args.labels,
        test_share=args.test_share,
        n_folds=args.n_folds,
        seed=args.seed,
        pseudonymise=patient_pseudonymiser(store),
    ).to_json()


def pretrain(args: argparse.Namespace) -> Mapping[str, object]:
    """Pretrain a backbone on stores, or take a captured step again."""
    if args.replay is not None:
        return stages.replay(args.replay).to_json()
    return stages.pretrain(
        choose_stores(args.stores, "pretrain"),
        args.out,
        init=args.init,
        recipe=args.recipe,
        changes=tuple(args.changes),
        split=args.split,
        transductive=args.transductive,
        max_steps=args.max_steps,
        resume=args.resume,
        resident=args.resident,
    ).to_json()


def finetune(args: argparse.Namespace) -> Mapping[str, object]:
    """Train a classifier on one store and its labels."""
    store = choose_store(args.store, "finetune")
    return stages.finetune(
        store,
        args.labels,
        args.out,
        init=args.init,
        recipe=args.recipe,
        changes=tuple(args.changes),
        image_labels=args.image_labels,
        organ_boxes=args.organ_boxes,
        split=args.split,
        transductive=args.transductive,
        max_steps=args.max_steps,
        resume=args.resume,
        allow_unlabelled=args.allow_unlabelled,
        pseudonymise=patient_pseudonymiser(store),
        resident=args.resident,
    ).to_json()


def project(args: argparse.Namespace) -> Mapping[str, object]:
    """Train 3D-to-2D networks on stores."""
    return stages.project(
        choose_stores(args.stores, "localise"),
        args.out,
        init=args.init,
        images=args.images,
        recipe=args.recipe,
        changes=tuple(args.changes),
        split=args.split,
        transductive=args.transductive,
        max_steps=args.max_steps,
        resume=args.resume,
        resident=args.resident,
    ).to_json()


def pairs(args: argparse.Namespace) -> Mapping[str, object]:
    """Write second images of the series of a store, from the archive of the store."""
    return paired_images.make_pairs(
        args.source, args.store, args.out, kind=args.kind, options=_ingest_options(args)
    ).to_json()


def localise(args: argparse.Namespace) -> Mapping[str, object]:
    """Write the boxes of all series of a store."""
    store = choose_store(args.store, "localise")
    return stages.localise(
        args.run,
        store,
        args.out,
        box=args.box,
        margin_mm=args.margin,
        score=args.score,
        masks=open_masks(args.archive, store, args.layout),
        trained_on=args.trained_on,
        pictures=args.pictures,
    ).to_json()


def evaluate(args: argparse.Namespace) -> Mapping[str, object]:
    """Score one run on its test patients, or compare it with another one."""
    if args.against is not None:
        return stages.compare_runs(args.run, args.against, args.out).to_json()
    return stages.evaluate(args.run, args.out, again=args.again).to_json()


def predict(args: argparse.Namespace) -> Mapping[str, object]:
    """Preprocess new scans as a run's own, and predict them."""
    return predict_source(
        args.run, args.source, args.out, _ingest_options(args), structured_reports=args.sr
    )


def explain(args: argparse.Namespace) -> Mapping[str, object]:
    """Show which slices and places a run uses for its test patients."""
    return stages.explain(
        args.run,
        args.store,
        args.out,
        patients=args.patients,
        image_labels=args.image_labels,
    ).to_json()


def export(args: argparse.Namespace) -> Mapping[str, object]:
    """Write the classifier of a run for programs without PyTorch."""
    return stages.export_onnx(args.run, args.out, fold=args.fold, int8=args.int8).to_json()


def experiment(args: argparse.Namespace) -> Mapping[str, object]:
    """Train and compare all runs of an experiment, or list them."""
    from voco_models import experiments

    declared = experiments.read_experiment(args.file)
    return experiments.run_experiment(
        declared,
        plan_only=args.plan,
        resident=args.resident,
        pseudonymise=patient_pseudonymiser(declared.store),
    ).to_json()


def card(args: argparse.Namespace) -> Mapping[str, object]:
    """Write the model card and the weights of a run to a folder that can be handed over."""
    return stages.make_model_card(args.run, args.out).to_json()


def probe(args: argparse.Namespace) -> Mapping[str, object]:
    """Probe frozen backbones and their controls on patients left out."""
    return stages.probe_backbones(
        choose_stores(args.stores, "pretrain"),
        args.backbones or ["random:tf_efficientnet_lite0"],
        split=args.split,
        domains=args.domains,
        by_domain=args.by_domain,
        n_folds=args.folds,
        max_volumes=args.max_volumes,
        crops=args.crops,
        seed=args.seed,
    ).to_json()


def champion(args: argparse.Namespace) -> Mapping[str, object]:
    """Show the champion of a folder of retrainings, or change it."""
    from voco_models import tracking

    if args.promote is not None:
        found = tracking.promote_by_hand(args.runs, args.promote, args.reason)
    elif args.rollback:
        found = tracking.roll_back(args.runs, args.reason)
    else:
        found = tracking.read_champions(tracking.require_champions(args.runs))
    described = found.describe(args.runs)
    if args.page is not None:
        described["page"] = str(tracking.write_timeline_page(args.runs, args.page))
    if args.mlflow is not None:
        described["mlflow"] = asdict(tracking.mirror_champions(args.runs, args.mlflow))
    return described


def drift(args: argparse.Namespace) -> Mapping[str, object]:
    """Compare what came in since the champion's cohort with this cohort."""
    return watch_champion(
        args.runs,
        args.out,
        predictions=tuple(args.predictions),
        alpha=args.alpha,
        min_patients=args.min_patients,
        min_effects=tuple(args.min_effects),
    )


def retention(args: argparse.Namespace) -> Mapping[str, object]:
    """List what is old under a root and in a folder of retrainings, or remove it."""
    return remove_what_is_old(
        args.root,
        args.runs,
        keep_runs=args.keep_runs,
        days=args.days,
        yes=args.yes,
        wait=args.wait,
    )


def figures(args: argparse.Namespace) -> Mapping[str, object]:
    """Write the page of figures over time."""
    from voco_models import tracking

    return tracking.write_figures(args.root, args.runs, args.out)


def server(args: argparse.Namespace) -> Mapping[str, object]:
    """Set up a Prefect server, or work for it."""
    return SERVER_ACTIONS[args.action](args)


def _setup(args: argparse.Namespace) -> Mapping[str, object]:
    from flows import deployments, server_setup

    given = {name: getattr(args, name) for name in deployments.SITE_PATHS}
    paths = {name: str(path) for name, path in given.items() if path is not None}
    return server_setup.set_up(args.folder.absolute(), paths, args.notify)


def _worker(args: argparse.Namespace) -> Mapping[str, object]:
    from flows import worker

    worker.require_server()
    worker.run_worker(args.pool, name=args.name, healthcheck=args.healthcheck)
    return {"pool": args.pool}


Verb = Callable[[argparse.Namespace], Mapping[str, object]]

STORE_ACTIONS: Final[dict[str, Verb]] = {
    "ls": _ls,
    "info": _info,
    "verify": _verify,
    "gc": _gc,
    "export": _export,
    "card": _store_card,
    "forget": _forget,
}
SERVER_ACTIONS: Final[dict[str, Verb]] = {"setup": _setup, "worker": _worker}
VERBS: Final[dict[str, Verb]] = {
    "demo": demo,
    "preprocess": preprocess,
    "store": store,
    "forget": forget,
    "split": split,
    "pretrain": pretrain,
    "finetune": finetune,
    "project": project,
    "pairs": pairs,
    "localise": localise,
    "evaluate": evaluate,
    "experiment": experiment,
    "predict": predict,
    "explain": explain,
    "export": export,
    "card": card,
    "champion": champion,
    "drift": drift,
    "retention": retention,
    "run": run,
    "figures": figures,
    "probe": probe,
    "bench": bench_verbs.bench,
    "server": server,
}
