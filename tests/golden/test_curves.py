"""The first losses of every shipped recipe are those kept here: a change of training shows.

If the change is meant, write the curves anew (see `compare.py`) and say in the commit why they
changed.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from tests.golden import compare, curves
from tests.golden.stores import make_stores
from tests.support.precision import in_float64, one_thread
from voco_models.stages.finetune_recipes import FINETUNE_RECIPES
from voco_models.stages.pretrain_recipes import PRETRAIN_RECIPES

TOLERANCE = 1e-5
"""Relative, in float64, between platforms. Between AVX2 and AVX512 it was 3e-11 at most."""
FIRST_STEPS = 5
"""Of each curve, in the fast set: several updates of every weight and of the teacher."""

pytestmark = pytest.mark.xdist_group("golden curves")  # one set of stores and of curves


def kept(case: str) -> dict[str, Any]:
    curves: dict[str, Any] = json.loads((compare.HERE / f"{case}.json").read_text())
    return curves


def kept_first(case: str, precision: str) -> compare.Curve:
    return {name: values[:FIRST_STEPS] for name, values in kept(case)[precision].items()}


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("golden")
    make_stores(root)
    return root


@pytest.fixture(scope="module")
def same_platform() -> bool:
    here: bool = json.loads(compare.PLATFORM.read_text()) == curves.describe_platform()
    return here


@pytest.fixture(scope="module")
def whole(stores: Path, same_platform: bool) -> dict[str, Any]:
    """Case -> whole curve of this checkout, as `compare.py` makes it: in processes of one thread.

    In float32 where it can be compared, else in float64.
    """
    precision = "float32" if same_platform else "float64"
    pretraining = [name for name in curves.CASES if name.startswith("pretrain")]
    finetuning = [name for name in curves.CASES if name.startswith("finetune")]
    runs = [
        compare.Run(compare.CHECKOUT, stores, [*cases, "--precision", precision])
        for cases in (pretraining, finetuning)
    ]
    first, second = compare.run_all(runs, ("pretraining", "fine-tuning"))
    both: dict[str, Any] = first["curves"] | second["curves"]
    return both


def first_steps(
    case: str,
    stores: Path,
    change: dict[str, Any] | None = None,
    *,
    precision: str = "float32",
    steps: int = FIRST_STEPS,
) -> curves.Curve:
    """The first steps of a curve, in this process with one thread."""
    with one_thread(), in_float64() if precision == "float64" else nullcontext():
        return curves.train(curves.CASES[case], stores, steps=steps, change=change)


VARIANTS = {"small", "default_s", "grid4", "grid4_s", "authors"}
"""Pretraining recipes without a curve. They differ from `default` in options that have tests;
`tests/voco_models/stages/test_pretrain_recipes.py` trains with each."""


def test_every_shipped_recipe_has_a_curve() -> None:
    recipes = {("pretrain", name) for name in set(PRETRAIN_RECIPES) - VARIANTS}
    recipes |= {("finetune", name) for name in FINETUNE_RECIPES}
    assert {(case.stage, case.recipe) for case in curves.CASES.values()} == recipes
    for name, case in curves.CASES.items():
        assert name == f"{case.stage}-{case.recipe}"
        for curve in kept(name).values():
            assert {len(values) for values in curve.values()} == {curves.STEPS}


@pytest.mark.parametrize("case", curves.CASES)
def test_the_first_losses_are_those_kept(case: str, stores: Path, same_platform: bool) -> None:
    precision = "float32" if same_platform else "float64"
    tolerance = 0.0 if same_platform else TOLERANCE
    found = first_steps(case, stores, precision=precision)
    assert compare.differences(kept_first(case, precision), found, tolerance=tolerance) == []


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("case", curves.CASES)
def test_losses_are_those_kept(case: str, whole: dict[str, Any], same_platform: bool) -> None:
    precision = "float32" if same_platform else "float64"
    tolerance = 0.0 if same_platform else TOLERANCE
    changed = compare.differences(kept(case)[precision], whole[case], tolerance=tolerance)
    assert changed == []


@pytest.mark.parametrize(
    "case", ["finetune-tiny", pytest.param("pretrain-tiny", marks=pytest.mark.slow)]
)
def test_float64_is_comparable_between_platforms(case: str, stores: Path) -> None:
    found = first_steps(case, stores, precision="float64")
    assert compare.differences(kept_first(case, "float64"), found, tolerance=TOLERANCE) == []
    assert kept(case)["float64"]["lr"] == kept(case)["float32"]["lr"]
    assert set(kept(case)["float64"]) == set(kept(case)["float32"])


@pytest.mark.parametrize(
    ("case", "change"),
    [
        ("finetune-tiny", {"class_weights": (1.0, 2.0, 4.001)}),
        ("pretrain-tiny", {"fit": {"lr": 1.001e-3}}),
        pytest.param("finetune-tiny", {"seed": 1}, marks=pytest.mark.slow),
        pytest.param("finetune-tiny", {"weight_decay": 0.011}, marks=pytest.mark.slow),
        pytest.param("pretrain-tiny", {"fit": {"seed": 1}}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_a_changed_recipe_is_seen(
    case: str, change: dict[str, Any], stores: Path, same_platform: bool
) -> None:
    """The comparison can fail: by more than the tolerance, and not only in the last bit."""
    precision = "float32" if same_platform else "float64"
    other = first_steps(case, stores, dict(change), precision=precision)
    lines = compare.differences(kept_first(case, precision), other, tolerance=TOLERANCE)
    assert "loss" in [line.split(":")[0] for line in lines]


def test_differences_say_what_and_where() -> None:
    before = {"loss": [1.0, 2.0, 3.0], "gone": [0.0] * 3}
    after = {"loss": [1.0, 2.0 + 1e-9, 3.3], "new": [0.0] * 3}
    loss, gone, new = compare.differences(before, after, tolerance=1e-5)
    assert loss.startswith("loss: 1 of 3 steps differ, first step 3: 3.0 is 3.3")
    assert (gone, new) == ("gone: gone", "new: new")
    assert compare.differences(before, after)[0].startswith("loss: 2 of 3 steps differ")
    assert compare.differences(before, before) == []
    assert compare.differences({"loss": [1.0]}, {"loss": [float("nan")]}, tolerance=1.0) != []
    assert compare.differences({"loss": [1.0]}, {"loss": []}) == ["loss: 1 steps, now 0"]


@pytest.mark.slow
def test_a_commit_trains_like_itself() -> None:
    if shutil.which("git") is None:
        pytest.skip("no git")
    assert compare.compare("HEAD", "HEAD", ["finetune-tiny"]) == {"finetune-tiny": []}


def test_a_commit_that_is_not_there_is_named() -> None:
    inside = subprocess.run(
        ["git", "-C", str(compare.CHECKOUT), "rev-parse"], capture_output=True, check=False
    )
    if inside.returncode:
        pytest.skip("no git checkout")
    with pytest.raises(compare.CannotRun, match="no-such-commit cannot be checked out"):
        compare.compare("no-such-commit", "HEAD", [])
