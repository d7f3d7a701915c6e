"""What `voco` accepts on the command line. Only light modules: `voco --help` starts at once."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, get_args

from flows.bench_options import add_bench
from flows.champion_options import add_champion
from flows.command_parser import OneLineParser, PrintVersion, add_command
from flows.drift_options import add_drift
from flows.option_values import local, positive_int, seconds, share, whole_number
from flows.retention_options import add_figures, add_retention
from flows.run_options import add_run
from flows.server_options import add_server
from flows.store_card_options import add_store_card
from flows.training_options import (
    RESIDENCES,
    add_finetune,
    add_image_labels,
    add_localise,
    add_pretrain,
    add_project,
)
from voco_data.deidentification import TextSearch
from voco_data.ingest import UnevenPolicy, list_options
from voco_data.layouts import layout_choices
from voco_data.storage import path_or_url

INGEST_OPTIONS = {option.name: option for option in list_options()}


def build_parser() -> OneLineParser:
    """The parser of the command: a subcommand for each stage, each with `--json`."""
    parser = OneLineParser(
        prog="voco",
        description="From a CT archive to a trained slice-sequence classifier.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action=PrintVersion, nargs=0, help="print it and exit")
    parser.add_argument("--debug", action="store_true", help="show the traceback of any error")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_demo(commands)
    _add_preprocess(commands)
    _add_store(commands)
    _add_forget(commands)
    _add_split(commands)
    add_pretrain(commands)
    add_finetune(commands)
    _add_pairs(commands)
    add_project(commands)
    add_localise(commands)
    _add_evaluate(commands)
    _add_experiment(commands)
    _add_predict(commands)
    _add_explain(commands)
    _add_export(commands)
    _add_card(commands)
    _add_probe(commands)
    add_champion(commands)
    add_drift(commands)
    add_retention(commands)
    add_figures(commands)
    add_run(commands)
    add_bench(commands)
    add_server(commands)
    return parser


def _add_demo(commands: Any) -> None:
    demo = add_command(commands, "demo", "the whole pipeline on a made-up cohort, then a report")
    demo.add_argument(
        "part",
        nargs="?",
        choices=("classifier", "localiser"),
        default="classifier",
        help="classifier: archives to a trained classifier; localiser: organ boxes from few masks "
        "(classifier)",
    )
    demo.add_argument(
        "--root",
        type=local,
        help="folder for everything it makes (./demo, for the localiser ./demo-localiser)",
    )
    demo.add_argument("--seed", type=int, help="another cohort and training seed")


def _add_preprocess(commands: Any) -> None:
    preprocess = add_command(commands, "preprocess", "bring the stores up to date with an archive")
    add = preprocess.add_argument
    add("source", type=local, metavar="SOURCE", help="folder or file with DICOM or NIfTI")
    add(
        "--root",
        type=path_or_url,
        required=True,
        metavar="DIR",
        help="where the stores live: a folder, s3://BUCKET/PREFIX or az://CONTAINER/PREFIX",
    )
    _add_option(preprocess, "layout", choices=layout_choices())
    specs = preprocess.add_mutually_exclusive_group()
    _add_option(specs, "specs", flag="--spec", action="append", metavar="NAME")
    _add_option(specs, "spec_file", type=Path, metavar="F")
    spread = preprocess.add_mutually_exclusive_group()
    _add_option(spread, "workers", type=positive_int, metavar="N")
    _add_option(spread, "dask", metavar="local|ADDRESS")
    _add_option(preprocess, "boxes", note="CSV or Parquet", type=Path, metavar="FILE")
    _add_option(preprocess, "ids", note="CSV or Parquet", type=Path, metavar="FILE")
    _add_option(
        preprocess,
        "uneven",
        note="refuse the series, as the built-in specs do, or interpolate",
        choices=get_args(UnevenPolicy),
    )
    _add_option(preprocess, "keep_ids", action="store_true")
    _add_option(
        preprocess,
        "burned_in",
        note="strict refuses more, also series without text",
        choices=get_args(TextSearch),
    )
    add("--estimate", action="store_true", help="say what a run would take, and write nothing")
    _add_option(preprocess, "deep", action="store_true")
    _add_option(preprocess, "prune", action="store_true")
    _add_option(preprocess, "yes", action="store_true")
    _add_option(preprocess, "skip_unchanged", action="store_true")
    _add_option(preprocess, "wait", type=seconds, metavar="SECONDS")
    _add_option(preprocess, "include", action="append", metavar="GLOB")
    _add_option(preprocess, "exclude", action="append", metavar="GLOB")


def _add_option(parser: Any, name: str, *, flag: str = "", note: str = "", **settings: Any) -> None:
    """Add a flag for an ingest option; the value is None if the flag is left out.

    The help is the description of the field, then `note`, and the default in brackets. `settings`
    are arguments of `ArgumentParser.add_argument`.
    """
    option = INGEST_OPTIONS[name]
    text = option.description.removesuffix(".")
    if not text[:2].isupper():  # JSON stays as it is
        text = text[0].lower() + text[1:]
    if note:
        text += f"; {note}"
    if settings.get("action") == "append":
        text += ", repeatable"
    flag = flag or f"--{name.replace('_', '-')}"
    parser.add_argument(
        flag, dest=name, default=None, help=text + _default(option.default), **settings
    )


def _default(value: Any) -> str:
    """` (default)` for a help text; empty for a flag, and where nothing is the default."""
    if isinstance(value, tuple):
        value = " and ".join(value)
    elif isinstance(value, float):
        value = f"{value:g}"
    return f" ({value})" if value else ""


def _add_pairs(commands: Any) -> None:
    pairs = add_command(
        commands, "pairs", "second images of the series of a store, for project --images"
    )
    add = pairs.add_argument
    add("source", type=local, metavar="ARCHIVE", help="the archive that STORE was made from")
    add("store", type=path_or_url, metavar="STORE")
    add("--out", type=local, required=True, metavar="DIR", help="a new or empty folder")
    add(
        "--kind",
        choices=("localizer", "phase"),
        required=True,
        help="localizer: the scouts of the same study; phase: mean projections of another series "
        "of the same study, which may be another phase",
    )
    _add_option(pairs, "layout", choices=layout_choices())
    _add_option(pairs, "ids", note="as for preprocess", type=Path, metavar="FILE")


def _add_store(commands: Any) -> None:
    about = "look at stores, describe them, clean up, export a volume, erase a patient"
    store = commands.add_parser("store", help=about, description=about, allow_abbrev=False)
    actions = store.add_subparsers(dest="action", required=True, metavar="ACTION")
    listing = add_command(actions, "ls", "the stores under ROOT: sizes, series, who uses them")
    listing.add_argument("root", type=path_or_url, metavar="ROOT")
    info = add_command(actions, "info", "what one store holds")
    info.add_argument("store", type=path_or_url, metavar="STORE")
    verify = add_command(actions, "verify", "re-hash every chunk of one store")
    verify.add_argument("store", type=path_or_url, metavar="STORE")
    gc = add_command(actions, "gc", "list what nothing needs under ROOT; remove it with --yes")
    gc.add_argument("root", type=path_or_url, metavar="ROOT")
    gc.add_argument(
        "--store", action="append", default=[], metavar="NAME", help="this store too, if unused"
    )
    gc.add_argument(
        "--keep-runs",
        type=whole_number,
        metavar="N",
        help="only the last N ledgers and reports (all)",
    )
    _add_removal(gc)
    export = add_command(actions, "export", "one volume as NIfTI, where the scanner saw it")
    export.add_argument("store", type=path_or_url, metavar="STORE")
    export.add_argument("row", type=whole_number, metavar="ROW")
    export.add_argument(
        "--out", type=Path, metavar="FILE", help=".nii.gz or .nii to write (<profile>-<row>.nii.gz)"
    )
    add_store_card(actions)
    forget = add_command(actions, "forget", "what a patient left under ROOT; erase it with --yes")
    forget.add_argument("root", type=path_or_url, metavar="ROOT")
    forget.add_argument("patient", metavar="PATIENT", help="the archive's id, or the pseudonym")
    _add_removal(forget)


def _add_forget(commands: Any) -> None:
    forget = add_command(
        commands, "forget", "a patient who withdrew: what names it anywhere; remove it with --yes"
    )
    add = forget.add_argument
    add("patient", metavar="PATIENT", help="the archive's id, or the pseudonym")
    add("--root", type=path_or_url, required=True, metavar="ROOT", help="folder of the stores")
    add(
        "--runs",
        type=local,
        action="append",
        default=[],
        metavar="FOLDER",
        help="folder with runs, predictions and other results, at any depth (again for more)",
    )
    add(
        "--split",
        type=local,
        action="append",
        default=[],
        dest="splits",
        metavar="FILE",
        help="a split file outside of --runs (again for more)",
    )
    add(
        "--receipt",
        type=local,
        metavar="FILE",
        help="the receipt to write with --yes (receipt-<digest>.json here)",
    )
    _add_removal(forget)


def _add_removal(parser: argparse.ArgumentParser) -> None:
    """The options of what removes: without --yes nothing is removed."""
    parser.add_argument("--yes", action="store_true", help="do it; without, it is only listed")
    parser.add_argument(
        "--wait",
        type=seconds,
        default=0.0,
        metavar="SECONDS",
        help="how long to wait for a store that a run is filling (0)",
    )


def _add_split(commands: Any) -> None:
    about = "a test set and folds by patient: make the file, or append new patients to it"
    split = add_command(commands, "split", about)
    split.add_argument(
        "store", type=path_or_url, metavar="STORE", help="a store, a root, or ROOT/latest"
    )
    patients = split.add_mutually_exclusive_group()
    patients.add_argument(
        "--labels", type=Path, metavar="FILE", help="split the patients of this label table only"
    )
    patients.add_argument(
        "--all", action="store_true", help="split all patients of the store (without --labels)"
    )
    split.add_argument("--out", type=local, required=True, metavar="SPLIT", help="the split file")
    split.add_argument(
        "--test-share", type=share, metavar="F", help="share of test patients in a new file (0.2)"
    )
    split.add_argument(
        "--folds",
        type=positive_int,
        dest="n_folds",
        metavar="N",
        help="folds of the other patients in a new file (5)",
    )
    split.add_argument("--seed", type=whole_number, metavar="N", help="seed of a new file (0)")


def _add_evaluate(commands: Any) -> None:
    evaluate = add_command(
        commands, "evaluate", "scores, intervals and plots of one run, or two runs compared"
    )
    evaluate.add_argument("run", type=Path, metavar="RUN")
    evaluate.add_argument("--out", type=Path, metavar="DIR", help="where to write (inside RUN)")
    evaluate.add_argument(
        "--again",
        action="store_true",
        help="open the test set another time; looks are counted and printed",
    )
    evaluate.add_argument(
        "--against",
        type=Path,
        metavar="RUN2",
        help="instead, compare both runs on the test patients that neither was trained on",
    )
    evaluate.find_problem = _find_evaluate_problem


def _find_evaluate_problem(args: argparse.Namespace) -> str | None:
    """What does not go together."""
    if args.again and args.against is not None:
        return "--again is for an evaluation; a comparison by --against is counted without it"
    return None


def _add_predict(commands: Any) -> None:
    predict = add_command(commands, "predict", "grade the injuries of new patients with one run")
    add = predict.add_argument
    add("run", type=local, metavar="RUN", help="folder of a finished voco finetune run")
    add("source", type=local, metavar="SOURCE", help="folder or file with DICOM or NIfTI")
    add("--out", type=local, required=True, metavar="DIR", help="where to write; new, or a rerun's")
    add("--sr", action="store_true", help="also a DICOM Structured Report for each study")
    _add_option(predict, "layout", choices=layout_choices())
    _add_option(predict, "workers", type=positive_int, metavar="N")
    _add_option(predict, "keep_ids", action="store_true")
    _add_option(predict, "boxes", note="CSV or Parquet", type=Path, metavar="FILE")


def _add_explain(commands: Any) -> None:
    explain = add_command(commands, "explain", "which slices and places one run uses, as a page")
    add = explain.add_argument
    add("run", type=local, metavar="RUN", help="folder of a finished voco finetune run")
    add("store", type=path_or_url, metavar="STORE", help="the store that it learnt from")
    add("--out", type=local, required=True, metavar="DIR", help="where to write")
    add("--patients", type=positive_int, default=6, metavar="N", help="patients on the page (6)")
    add_image_labels(explain, "for runs that grade bowel or extravasation")


def _add_export(commands: Any) -> None:
    export = add_command(commands, "export", "the classifier of one run as an ONNX file")
    add = export.add_argument
    add("run", type=local, metavar="RUN", help="folder of a finished voco finetune run")
    add("--out", type=local, required=True, metavar="FILE", help=".onnx file to write")
    add("--fold", type=whole_number, metavar="N", help="the model of one fold (mean of all folds)")
    add("--int8", action="store_true", help="int8 weights: a smaller file, other probabilities")


def _add_experiment(commands: Any) -> None:
    experiment = add_command(
        commands, "experiment", "arms x seeds x fractions of labels or masks, then the tables"
    )
    experiment.add_argument("file", type=Path, metavar="FILE", help="its declaration, in TOML")
    experiment.add_argument(
        "--plan", action="store_true", help="only list which runs exist and which are missing"
    )
    experiment.add_argument(
        "--resident", choices=RESIDENCES, default="none", help="keep all volumes in memory (none)"
    )


def _add_card(commands: Any) -> None:
    card = add_command(commands, "card", "a folder to hand over: model card, weights, decision")
    card.add_argument("run", type=local, metavar="RUN", help="a finished voco finetune run")
    card.add_argument(
        "--out", type=local, required=True, metavar="DIR", help="a new or empty folder"
    )


def _add_probe(commands: Any) -> None:
    probe = add_command(
        commands, "probe", "what frozen backbones know about place, beside controls"
    )
    add = probe.add_argument
    add("stores", type=path_or_url, nargs="+", metavar="STORE")
    add(
        "--backbone",
        action="append",
        default=[],
        dest="backbones",
        metavar="RUN|FILE|random:NAME|imagenet:NAME",
        help="a run, its backbone.pt, or a network; repeatable (random:tf_efficientnet_lite0)",
    )
    add("--split", type=Path, metavar="SPLIT", help="fit outside its test set, measure inside it")
    add("--domains", type=Path, metavar="FILE", help="CSV with patient_id and domain")
    add("--by-domain", action="store_true", help="leave out one domain after the other")
    add("--folds", type=positive_int, default=5, metavar="N", help="folds of patients (5)")
    add("--crops", type=positive_int, default=16, metavar="N", help="crops per volume (16)")
    add("--max-volumes", type=positive_int, default=200, metavar="N", help="read at most N (200)")
    add("--seed", type=whole_number, default=0, help="of crops, folds and random weights (0)")
