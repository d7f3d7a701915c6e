"""Compilation on the CPU: only where it is asked for, and only with a compiler."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.support.small_stores import make_store, random_volumes
from voco_data.errors import InputError
from voco_models.objectives.voco2d import Voco2d
from voco_models.stages.compiler import check_compiler, has_cpu_compiler
from voco_models.stages.pretrain_recipes import PRETRAIN_RECIPES
from voco_models.stages.pretraining import pretrain

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
TINY = PRETRAIN_RECIPES["tiny"]


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)


def test_built_in_recipes_compile_on_cuda_only() -> None:
    assert TINY.compiles_on(CUDA)
    assert not TINY.compiles_on(CPU)
    assert replace(TINY, compile_cpu=True).compiles_on(CPU)
    assert not replace(TINY, compile=False, compile_cpu=True).compiles_on(CUDA)


@pytest.mark.usefixtures("no_compiler")
def test_no_compiler_is_an_error_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"expected g\+\+ or clang\+\+ on the path"):
        pretrain(
            ["no store"], tmp_path / "run", recipe="tiny", changes=["compile_cpu=true"], device=CPU
        )
    assert not (tmp_path / "run").exists()
    check_compiler(CUDA)  # CUDA has its own


@pytest.mark.usefixtures("no_compiler")
def test_the_compiler_may_be_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not has_cpu_compiler()
    compiler = tmp_path / "my-compiler"
    compiler.touch(mode=0o755)
    monkeypatch.setenv("CXX", str(compiler))
    assert has_cpu_compiler()


def test_a_run_compiles_where_it_is_asked_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[Voco2d] = []
    monkeypatch.setattr(Voco2d, "compile_backbones", lambda self: compiled.append(self))
    monkeypatch.setattr("voco_models.stages.compiler.has_cpu_compiler", lambda: True)
    store = make_store(tmp_path, random_volumes(4, (8, 96, 96)))
    for changes, expected in ((), 0), (("compile_cpu=true",), 1):
        run = tmp_path / f"run-{expected}"
        pretrain([str(store.storage)], run, recipe="tiny", changes=changes, max_steps=1, device=CPU)
        assert len(compiled) == expected
