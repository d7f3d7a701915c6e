"""The first losses of every shipped recipe, on the stores of `stores.py`.

    python tests/golden/curves.py STORES OUT.json [--precision float64] [--steps N] [CASE ...]

The training code is imported from PYTHONPATH, so that one file can run the code of two commits;
`compare.py` does that. Beside the training code nothing of the project is imported.

In float32, training is what a user gets, but its losses can be compared between equal machines
only: another CPU rounds otherwise, and Adam makes 1e-7 at the first step into several per cent
twenty steps later. In float64, with every cast to float32 made one to float64, the same
mathematics differs by less than 1e-10 between instruction sets.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import importlib
import json
import platform
import sys
import tempfile
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

STEPS = 20

Curve = dict[str, list[float]]
"""Column of `history.csv`, without the clock -> a value a step."""


@dataclass(frozen=True, slots=True)
class Case:
    """One recipe with only its sizes reduced: losses, optimiser, schedule and EMA are kept."""

    stage: str
    recipe: str
    store: str
    reduced: str
    """Which sizes are smaller than in production, and why."""
    view: tuple[int, int] | None = None
    """Slices and side in pixels that the classifier looks at, where the recipe's are too large."""
    batch_size: int | None = None
    """Series per step, where the recipe has more than the store."""


CASES = {
    "pretrain-default": Case(
        stage="pretrain",
        recipe="default",
        store="pretrain_small",
        reduced="volumes of 1 x 48 x 48 instead of 32 x 192 x 192: the full size takes a minute a "
        "step on one core",
    ),
    "pretrain-tiny": Case(
        stage="pretrain", recipe="tiny", store="pretrain_full", reduced="nothing"
    ),
    "finetune-default": Case(
        stage="finetune",
        recipe="default",
        store="finetune_small",
        reduced="a view of 4 x 32 x 32, the whole volume as in production, instead of "
        "96 x 256 x 256: the full size takes minutes a step on one core",
        view=(4, 32),
    ),
    "finetune-code": Case(
        stage="finetune",
        recipe="code",
        store="finetune_small",
        reduced="a view of 2 x 24 x 24 in volumes of 4 x 32 x 32, half the slices and three "
        "quarters of the side as in production, instead of 48 x 192 x 192 in 96 x 256 x 256: the "
        "full size takes minutes a step on one core",
        view=(2, 24),
    ),
    "finetune-tiny": Case(
        stage="finetune",
        recipe="tiny",
        store="finetune_half",
        reduced="volumes of 48 x 128 x 128 instead of 96 x 256 x 256, averaged to the recipe's "
        "own view, and 8 series a step instead of 12: less to write",
        batch_size=8,
    ),
}


STAGE_MODULES = {
    "pretrain": (
        "voco_models.stages.pretraining",
        "voco_models.stages.pretrain",
        "voco_models.pretrain",
    ),
    "finetune": (
        "voco_models.stages.finetuning",
        "voco_models.stages.finetune",
        "voco_models.finetune",
    ),
}
"""Where the function of a stage is, and where it was in older commits."""


def train(
    case: Case, stores: Path, *, steps: int = STEPS, change: dict[str, Any] | None = None
) -> Curve:
    """The curve of a case; `change` replaces fields of its recipe, for tests of the comparison."""
    stage = _module(*STAGE_MODULES[case.stage])
    recipe = _recipe(case, change or {})
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        options = {"recipe": recipe, "max_steps": steps, "device": "cpu"}
        if case.stage == "pretrain":
            stage.pretrain([_store(stores, case.store)], run, **options)
        else:
            stage.finetune(_store(stores, case.store), stores / "labels.csv", run, **options)
            run = run / "fold-0"
        with (run / "history.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
    names = [name for name in rows[0] if name not in ("step", "seconds")]
    return {name: [float(row[name]) for row in rows] for name in names}


def _recipe(case: Case, change: dict[str, Any]) -> Any:
    """The shipped recipe with a row of the history for every step, and its reduced view."""
    recipes = _module(
        f"voco_models.stages.{case.stage}_recipes", f"voco_models.{case.stage}_recipes"
    )
    if case.stage == "pretrain":
        recipe = recipes.PRETRAIN_RECIPES[case.recipe]
        fit = dataclasses.replace(recipe.fit, log_every=1, **change.pop("fit", {}))
        return dataclasses.replace(recipe, fit=fit, **change)
    recipe = recipes.FINETUNE_RECIPES[case.recipe]
    if case.view is not None:
        slices, size_px = case.view
        change["view"] = dataclasses.replace(recipe.view, slices=slices, size_px=size_px)
    if case.batch_size is not None:
        change["batch_size"] = case.batch_size
    return dataclasses.replace(recipe, log_every=1, **change)


def _store(stores: Path, name: str) -> Path:
    return next((stores / name).glob("*.zarr"))


def _module(*names: str) -> ModuleType:
    """The first module that exists: older commits have the stages elsewhere."""
    for name in names:
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is None or not name.startswith(error.name):
                raise
    raise ModuleNotFoundError(f"none of {', '.join(names)} is importable")


def use_precision(name: str) -> None:
    """Compute in `float32` as training does, or everything in `float64`."""
    if name == "float64":
        torch.set_default_dtype(torch.float64)
        torch.Tensor.float = torch.Tensor.double  # type: ignore[method-assign]


CPU_FACTS = ("vendor_id", "cpu family", "model", "model name", "stepping", "cache size", "flags")


def forget_editable_installs() -> None:
    """Import from PYTHONPATH only: an editable install would lend modules that a commit lacks."""
    sys.meta_path[:] = [
        finder
        for finder in sys.meta_path
        if "__editable__" not in str(getattr(finder, "__module__", ""))
    ]


def describe_platform() -> dict[str, str]:
    """Everything that decides how float32 is rounded."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().split("\n\n")[0].splitlines() if cpuinfo.exists() else []
    facts = {
        key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)
    }
    return {
        **{name: facts.get(name, "") for name in CPU_FACTS},
        "machine": platform.machine(),
        "cpu capability": torch.backends.cpu.get_cpu_capability(),
        "torch": str(torch.__version__),
        "timm": version("timm"),
        "numpy": version("numpy"),
        "python": platform.python_version(),
        "threads": "1",
    }


def main() -> None:
    """Write the curves of the named cases, or of all, and the platform."""
    parser = argparse.ArgumentParser(description="The first losses of every shipped recipe.")
    parser.add_argument("stores", type=Path, help="folder that stores.py filled")
    parser.add_argument("out", type=Path, help="JSON file to write")
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"of {', '.join(CASES)}")
    parser.add_argument("--precision", choices=("float32", "float64"), default="float32")
    parser.add_argument("--steps", type=int, default=STEPS)
    args = parser.parse_intermixed_args()
    forget_editable_installs()
    torch.set_num_threads(1)
    use_precision(args.precision)
    names = args.cases or list(CASES)
    curves = {name: train(CASES[name], args.stores, steps=args.steps) for name in names}
    args.out.write_text(json.dumps({"platform": describe_platform(), "curves": curves}))


if __name__ == "__main__":
    main()
