"""The tables of `voco bench`: one function for each takes the options and returns figures."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from typing import Final

from flows.archive_masks import open_masks
from flows.ids import patient_pseudonymiser


def bench(args: argparse.Namespace) -> Mapping[str, object]:
    """Measure, and print medians and ratios."""
    return BENCHES[args.table](args)


def _bench_loader(args: argparse.Namespace) -> Mapping[str, object]:
    del args
    from voco_models.bench import loader

    return loader.bench()


def _bench_pretrain(args: argparse.Namespace) -> Mapping[str, object]:
    from voco_models.bench import pretrain

    return pretrain.bench(args.recipe, args.device, quick=args.quick)


def _bench_cost(args: argparse.Namespace) -> Mapping[str, object]:
    from voco_models.bench import cost

    return cost.bench(args.device, quick=args.quick, seconds=args.seconds)


def _bench_heads(args: argparse.Namespace) -> Mapping[str, object]:
    from voco_models.bench import heads

    return heads.bench(
        args.store,
        args.labels,
        init=args.init,
        recipe=args.recipe,
        changes=tuple(args.changes),
        split=args.split,
        heads=tuple(args.heads),
        seeds=args.seeds,
        cache=args.cache,
        allow_unlabelled=args.allow_unlabelled,
        device=args.device,
        pseudonymise=patient_pseudonymiser(args.store),
    )


def _bench_localisers(args: argparse.Namespace) -> Mapping[str, object]:
    from voco_models.bench import localisers

    masks = open_masks(args.archive, args.store, args.layout)
    assert masks is not None
    return localisers.bench(
        args.store,
        masks,
        recipe=args.recipe,
        changes=tuple(args.changes),
        split=args.split,
        networks=tuple(args.networks),
        n_masks=args.masks,
        steps=args.steps,
        seeds=args.seeds,
        margin_mm=args.margin,
        out=args.out,
        device=args.device,
    )


def _bench_flow(args: argparse.Namespace) -> Mapping[str, object]:
    del args
    from flows import flow_bench

    return flow_bench.bench()


def _bench_ingest(args: argparse.Namespace) -> Mapping[str, object]:
    del args
    from voco_data.bench.ingest import bench_ingest

    return bench_ingest()


BENCHES: Final[dict[str, Callable[[argparse.Namespace], Mapping[str, object]]]] = {
    "ingest": _bench_ingest,
    "loader": _bench_loader,
    "flow": _bench_flow,
    "pretrain": _bench_pretrain,
    "cost": _bench_cost,
    "heads": _bench_heads,
    "localisers": _bench_localisers,
}
