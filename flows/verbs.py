"""One function a subcommand: options in, summary out.

Each imports its stage when it is called, not before: `voco --help` starts at once, and a
machine without torch can preprocess.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from typing import Final

from flows.ids import renaming_of


def demo(args: argparse.Namespace) -> Mapping[str, object]:
    """Run the demo flow in a Prefect of its own, below the demo's folder."""
    from flows.embedded import isolate_prefect, start_server

    isolate_prefect(args.root)
    start_server()
    from flows.demo import demo as demo_flow

    return demo_flow(args.root, seed=args.seed)


def preprocess(args: argparse.Namespace) -> Mapping[str, object]:
    """Fill the stores of an archive."""
    from voco_data import ingest

    return ingest.preprocess(
        args.source,
        args.root,
        layout=args.layout,
        specs=tuple(args.spec or ("pretrain", "finetune")),
        spec_file=args.spec_file,
        workers=args.workers,
        dask=args.dask,
        boxes=args.boxes,
        uneven=args.uneven,
        keep_ids=args.keep_ids,
        deep=args.deep,
        wait=args.wait,
        include=tuple(args.include),
        exclude=tuple(args.exclude),
        progress=True,
    ).to_json()


def store(args: argparse.Namespace) -> Mapping[str, object]:
    """Look at stores: list a root, describe one store, or re-hash it."""
    if args.action == "verify":
        from voco_data.verify import verify

        return verify(args.store).to_json()
    from voco_data import inspect

    if args.action == "info":
        return inspect.describe(args.store)
    return {"stores": inspect.list_stores(args.root)}


def pretrain(args: argparse.Namespace) -> Mapping[str, object]:
    """Pretrain a backbone on stores."""
    from voco_models import pretrain as stage

    return stage.pretrain(
        args.stores,
        args.out,
        recipe=args.recipe,
        max_steps=args.max_steps,
        resume=args.resume,
        resident=args.resident,
    ).to_json()


def finetune(args: argparse.Namespace) -> Mapping[str, object]:
    """Train a classifier on one store and its labels."""
    from voco_models import finetune as stage

    return stage.finetune(
        args.store,
        args.labels,
        args.out,
        init=args.init,
        recipe=args.recipe,
        max_steps=args.max_steps,
        resume=args.resume,
        allow_unlabelled=args.allow_unlabelled,
        pseudonymise=renaming_of(args.store),
        resident=args.resident,
    ).to_json()


def evaluate(args: argparse.Namespace) -> Mapping[str, object]:
    """Score one run on its test patients."""
    from voco_models import evaluate as stage

    return stage.evaluate(args.run, args.out).to_json()


def bench(args: argparse.Namespace) -> Mapping[str, object]:
    """Measure, and print medians and ratios."""
    if args.table == "loader":
        from voco_models.bench import loader

        return loader.bench()
    from voco_data.bench.ingest import bench_ingest

    return bench_ingest()


VERBS: Final[dict[str, Callable[[argparse.Namespace], Mapping[str, object]]]] = {
    "demo": demo,
    "preprocess": preprocess,
    "store": store,
    "pretrain": pretrain,
    "finetune": finetune,
    "evaluate": evaluate,
    "bench": bench,
}
