"""What the stages that train, and `voco localise`, accept on the command line."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from flows.command_parser import add_command
from flows.option_values import local, positive_int
from voco_data.layouts import layout_choices
from voco_data.storage import path_or_url

RESIDENCES = ("none", "ram", "device")


def _add_init(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--init",
        default="scratch",
        metavar="scratch|imagenet|FILE|RUN",
        help="the backbone's first weights: a state dict of timm or MONAI, or a run (scratch)",
    )


def _add_training(parser: argparse.ArgumentParser) -> None:
    """The options that all training stages share."""
    parser.add_argument(
        "--recipe",
        default="default",
        metavar="NAME|FILE",
        help="a built-in recipe, such as default or tiny, or a .toml file (default)",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        dest="changes",
        metavar="NAME=VALUE",
        help="change an option of the recipe, repeatable; docs/recipes.md lists them",
    )
    parser.add_argument(
        "--split", type=local, metavar="SPLIT", help="file of voco split: who is held out"
    )
    parser.add_argument(
        "--transductive",
        action="store_true",
        help="let pretraining see test patients; every score then says so",
    )
    parser.add_argument(
        "--max-steps", type=positive_int, metavar="N", help="stop there; the schedule stays"
    )
    parser.add_argument("--resume", action="store_true", help="go on from RUN's last checkpoint")
    parser.add_argument(
        "--resident",
        choices=RESIDENCES,
        default="none",
        help="keep all volumes in memory, in RAM or on the device (none: stream them)",
    )


def add_pretrain(commands: Any) -> None:
    """Add `voco pretrain`."""
    pretrain = add_command(commands, "pretrain", "2D-VoCo pretraining on one or more stores")
    pretrain.add_argument(
        "stores", type=path_or_url, nargs="*", metavar="STORE", help="stores, roots, or ROOT/latest"
    )
    pretrain.add_argument("--out", type=local, metavar="RUN", help="run folder")
    pretrain.add_argument(
        "--replay",
        type=Path,
        metavar="FILE",
        help="take the step of RUN/nonfinite.pt again, and name what is not finite; no STORE",
    )
    _add_init(pretrain)
    _add_training(pretrain)
    pretrain.find_problem = _find_pretrain_problem


def _find_pretrain_problem(args: argparse.Namespace) -> str | None:
    """What is missing in, or too much for, a pretraining or a replay."""
    if args.replay is not None:
        return "--replay takes no STORE" if args.stores else None
    missing = [name for name, value in (("STORE", args.stores), ("--out", args.out)) if not value]
    if missing:
        return f"the following arguments are required: {', '.join(missing)} (or --replay FILE)"
    return None


def add_finetune(commands: Any) -> None:
    """Add `voco finetune`."""
    finetune = add_command(commands, "finetune", "train the slice-sequence classifier")
    finetune.add_argument(
        "store", type=path_or_url, metavar="STORE", help="a store, a root, or ROOT/latest"
    )
    finetune.add_argument(
        "--labels", type=Path, required=True, metavar="FILE", help="train.csv of RATIC's form"
    )
    finetune.add_argument("--out", type=local, required=True, metavar="RUN", help="run folder")
    add_image_labels(finetune, "for recipes with slice_weight")
    finetune.add_argument(
        "--organ-boxes",
        type=Path,
        metavar="FILE",
        help="table of voco localise: boxes of organs in series without masks, for the head "
        "organ_queries",
    )
    finetune.add_argument(
        "--allow-unlabelled", action="store_true", help="leave out patients without labels"
    )
    _add_init(finetune)
    _add_training(finetune)


def add_project(commands: Any) -> None:
    """Add `voco project`."""
    project = add_command(
        commands, "project", "3D-to-2D networks: maps of organs, or a second image of the body"
    )
    project.add_argument(
        "stores", type=path_or_url, nargs="+", metavar="STORE", help="stores, roots, or ROOT/latest"
    )
    project.add_argument("--out", type=local, required=True, metavar="RUN", help="run folder")
    project.add_argument(
        "--init", default="scratch", metavar="scratch|RUN", help="all first weights (scratch)"
    )
    project.add_argument(
        "--images",
        type=local,
        metavar="FOLDER|TABLE",
        help="second images for --set target=image: <series id>/coronal.png, .npy or .dcm and "
        "sagittal likewise, or a table; voco pairs writes such folders",
    )
    _add_training(project)


def add_localise(commands: Any) -> None:
    """Add `voco localise`."""
    localise = add_command(
        commands, "localise", "boxes of the abdomen or an organ, for preprocess --boxes"
    )
    add = localise.add_argument
    add("run", type=local, metavar="RUN", help="a finished voco project run of the target organs")
    add("store", type=path_or_url, metavar="STORE", help="a store of the run's spec")
    add("--out", type=local, required=True, metavar="FILE", help="table, .csv or .parquet")
    add("--box", default="abdomen", metavar="NAME", help="abdomen, kidney or an organ (abdomen)")
    add("--margin", type=float, default=15.0, metavar="MM", help="added on all sides (15)")
    add(
        "--score",
        action="store_true",
        help="compare with the masks of patients that RUN has not learnt from; tables beside FILE",
    )
    add_archive(localise, "with --score: count the voxels that boxes keep")
    add(
        "--trained-on",
        type=path_or_url,
        action="append",
        default=[],
        metavar="STORE",
        help="with --score: the store of RUN, if it is another one, for the mean box; repeatable",
    )
    add(
        "--pictures",
        type=int,
        default=0,
        metavar="N",
        help="write a page beside FILE with the N series whose box is least certain (0)",
    )
    localise.find_problem = _find_localise_problem


def _find_localise_problem(args: argparse.Namespace) -> str | None:
    """Options of scores without `--score`."""
    given = {"--archive": args.archive, "--trained-on": args.trained_on, "--layout": args.layout}
    extra = [name for name, value in given.items() if value]
    if extra and not args.score:
        return f"{extra[0]} goes with --score"
    if args.layout and args.archive is None:
        return "--layout goes with --archive: it is the layout of the archive"
    return None


def add_archive(parser: argparse.ArgumentParser, purpose: str, *, required: bool = False) -> None:
    """`--archive` and `--layout`: where masks are read again, and what for."""
    parser.add_argument(
        "--archive",
        type=local,
        required=required,
        metavar="SOURCE",
        help=f"the archive of STORE, whose masks are read again; {purpose}",
    )
    parser.add_argument(
        "--layout", choices=layout_choices(), help="how the archive is laid out (auto)"
    )


def add_image_labels(parser: argparse.ArgumentParser, purpose: str) -> None:
    """`--image-labels`, and what it is for."""
    parser.add_argument(
        "--image-labels",
        type=Path,
        metavar="FILE",
        help=f"image_level_labels.csv of RATIC, {purpose}",
    )
