"""What `voco bench` accepts on the command line."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from flows.command_parser import add_command
from flows.option_values import local, positive_int, seconds
from flows.training_options import add_archive
from voco_data.storage import path_or_url


def add_bench(commands: Any) -> None:
    """Add `voco bench`, with a subcommand for each table."""
    about = "measure this machine beside other tools"
    bench = commands.add_parser("bench", help=about, description=about, allow_abbrev=False)
    tables = bench.add_subparsers(dest="table", required=True, metavar="TABLE")
    add_command(tables, "ingest", "one made-up series to both grids: ours, the floor, the peers")
    add_command(tables, "loader", "reads for training: volumes and single slices")
    add_command(tables, "flow", "stages as Prefect flows, beside plain calls")
    pretrain = add_command(tables, "pretrain", "a step of pretraining, beside PyTorch's defaults")
    pretrain.add_argument(
        "--recipe", metavar="NAME|FILE", help="only this recipe (tiny and default; CUDA: default_s)"
    )
    cost = add_command(tables, "cost", "2D against 3D networks: operations, memory, time of a step")
    cost.add_argument(
        "--seconds", type=seconds, metavar="SECONDS", help="time no step after this (no limit)"
    )
    for table, quick in ((pretrain, "a few steps"), (cost, "small networks; CUDA: fewer rows")):
        table.add_argument("--quick", action="store_true", help=quick)
    heads, localisers = _add_heads(tables), _add_localisers(tables)
    for table in (pretrain, cost, heads, localisers):
        table.add_argument("--device", choices=("cpu", "cuda"), help="CUDA if there is one, or CPU")


def _add_heads(tables: Any) -> Any:
    heads = add_command(
        tables, "heads", "heads of the classifier on features of a frozen backbone, out of fold"
    )
    add = heads.add_argument
    add("store", type=path_or_url, metavar="STORE")
    add("--labels", type=Path, required=True, metavar="FILE", help="train.csv of RATIC's form")
    add(
        "--init",
        default="scratch",
        metavar="scratch|imagenet|FILE|RUN",
        help="the frozen weights of the backbone, as for voco finetune (scratch: random ones)",
    )
    add(
        "--recipe",
        default="default",
        metavar="NAME|FILE",
        help="recipe of fine-tuning: view, loss, optimiser and steps (default)",
    )
    _add_changes_and_split(heads)
    add(
        "--head",
        action="append",
        default=[],
        dest="heads",
        metavar="NAME",
        help="only this head, repeatable (all five)",
    )
    add("--seeds", type=positive_int, default=3, metavar="N", help="trainings of each head (3)")
    add(
        "--cache",
        type=local,
        default=Path("head-features"),
        metavar="DIR",
        help="where the features are kept (./head-features)",
    )
    add("--allow-unlabelled", action="store_true", help="leave out patients without labels")
    return heads


def _add_localisers(tables: Any) -> Any:
    localisers = add_command(
        tables, "localisers", "boxes of organs from the same few masks: 3D-to-2D, 3D, mean box, HU"
    )
    add = localisers.add_argument
    add("store", type=path_or_url, metavar="STORE", help="a store with masks, of the spec localise")
    add_archive(localisers, "learnt from in 3D, and scored", required=True)
    add(
        "--recipe",
        default="default",
        metavar="NAME|FILE",
        help="recipe of voco project: widths, optimiser, batch and steps (default)",
    )
    _add_changes_and_split(localisers)
    add(
        "--network",
        action="append",
        default=[],
        dest="networks",
        metavar="NAME",
        help="one of voco project's, or unet_3d; repeatable (fpn, depth_max, unet_2d, unet_3d)",
    )
    add("--masks", type=positive_int, default=10, metavar="N", help="patients to learn from (10)")
    add("--steps", type=positive_int, metavar="N", help="steps of each training (the recipe's)")
    add("--seeds", type=positive_int, default=1, metavar="N", help="trainings of each (1)")
    add("--margin", type=float, default=15.0, metavar="MM", help="of boxes that keep voxels (15)")
    add(
        "--out",
        type=local,
        default=Path("localisers"),
        metavar="DIR",
        help="folder of the runs, where a stopped call goes on (./localisers)",
    )
    return localisers


def _add_changes_and_split(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        dest="changes",
        metavar="NAME=VALUE",
        help="change an option of the recipe, repeatable",
    )
    parser.add_argument(
        "--split", type=local, metavar="SPLIT", help="file of voco split (a new split)"
    )
