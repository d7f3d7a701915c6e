"""The floors: imports point down, and each heavy library has one owner."""

from __future__ import annotations

import ast
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.project import PROJECT

PACKAGES = ("voco_data", "voco_models", "flows")

FORBIDDEN = {
    "voco_data": {"voco_models", "flows", "torch", "torchvision", "timm", "prefect"},
    "voco_models": {
        "flows",
        "prefect",
        "pydicom",
        "SimpleITK",
        "numba",
        "dask",
        "distributed",
        "zarr",
        "scipy",
        "matplotlib",
        "PIL",
        "sklearn",
        "obstore",
        # what fills stores needs all of the above; what reads them is the rest of voco_data
        "voco_data.ingest",
        "voco_data.dicom",
        "voco_data.nifti",
        "voco_data.phantom",
    },
    "flows": {"numpy", "pandas", "torch", "timm", "zarr", "dask", "pydicom", "SimpleITK"},
}
"""What the modules of a package never import, at the top or inside a function."""

PEERS = "voco_data/bench/peers"
"""Other tools, measured beside ours: the one place in voco_data that may import torch."""

OWNERS = {
    "pydicom": ("voco_data/dicom/", "voco_data/masks/dicom_seg", "voco_data/phantom/", PEERS),
    "SimpleITK": ("voco_data/phantom/", PEERS),
    "nnunetv2": (PEERS,),
    "torchio": (PEERS,),
    "nibabel": ("voco_data/nifti",),
    "nrrd": ("voco_data/masks/nrrd",),
    "zarr": ("voco_data/store/",),
    "numcodecs": ("voco_data/store/chunks/codec",),
    "obstore": ("voco_data/storage/object_store",),
    "dask": ("voco_data/executors/dask",),
    "distributed": ("voco_data/executors/dask",),
    "timm": ("voco_models/networks/backbones",),
    "prefect": ("flows/",),
    "monai": ("voco_models/bench/peers/", PEERS),
    "litdata": ("voco_models/bench/peers/",),
}
"""Library → beginnings of the paths that may import it."""


@dataclass(frozen=True)
class Import:
    path: str
    line: int
    module: str

    def is_of(self, name: str) -> bool:
        return self.module == name or self.module.startswith(f"{name}.")


def imports_of(root: Path) -> Iterator[Import]:
    for package in PACKAGES:
        for file in sorted((root / package).rglob("*.py")):
            tree = ast.parse(file.read_text(), filename=str(file))
            path = file.relative_to(root).as_posix()
            for node in ast.walk(tree):
                for module in modules_named_by(node):
                    yield Import(path, node.lineno, module)


def modules_named_by(node: ast.AST) -> list[str]:
    """Absolute names that an import statement, or a call of import_module, may load."""
    match node:
        case ast.Import(names=names):
            return [alias.name for alias in names]
        case ast.ImportFrom(module=str(module), names=names, level=0):
            return [f"{module}.{alias.name}" for alias in names]
        case ast.ImportFrom():
            return ["a relative import"]
        case ast.Call(
            func=ast.Name(id="import_module" | "__import__") | ast.Attribute(attr="import_module"),
            args=[ast.Constant(value=str(module)), *_],
        ):
            return [module]
        case _:
            return []


def violations(root: Path) -> list[str]:
    found = []
    for item in imports_of(root):
        package = item.path.partition("/")[0]
        banned = [
            name
            for name in FORBIDDEN[package]
            if item.is_of(name) and not (name == "torch" and item.path.startswith(PEERS))
        ]
        owned = [
            name
            for name, owners in OWNERS.items()
            if item.is_of(name) and not item.path.startswith(owners)
        ]
        if banned or owned or item.module == "a relative import":
            found.append(f"{item.path}:{item.line} imports {item.module}")
    return found


def test_imports_point_down_and_libraries_have_one_owner() -> None:
    assert violations(PROJECT) == []


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("voco_data/store/reader.py", "import torch"),
        ("voco_data/bench/floor.py", "import torch"),
        ("voco_data/bench/floor.py", "import monai"),
        ("voco_data/bench/peers.py", "import prefect"),
        ("voco_data/store/reader.py", "from voco_models.networks.heads import Head"),
        ("voco_data/ingest/run.py", "def f():\n    import prefect.flows"),
        ("voco_data/ingest/run.py", "import pydicom.uid"),
        ("voco_data/ingest/run.py", "from dask import delayed"),
        ("voco_data/ingest/run.py", "import zarr"),
        ("voco_data/storage/lease.py", "import obstore"),
        ("voco_data/ingest/run.py", "from . import store"),
        ("voco_data/store/reader.py", "def f():\n    from numcodecs import blosc"),
        ("voco_models/data/loader.py", "from voco_data import ingest"),
        ("voco_models/data/loader.py", "import importlib\nimportlib.import_module('zarr.storage')"),
        ("voco_models/networks/heads.py", "import timm"),
        ("voco_models/data/loader.py", "from monai.data import CacheDataset"),
        ("voco_models/networks/heads.py", "if True:\n    from flows.demo import demo"),
        ("flows/demo.py", "import numpy as np"),
    ],
)
def test_a_planted_violation_is_found(tmp_path: Path, path: str, code: str) -> None:
    plant(tmp_path, path, code)
    assert len(violations(tmp_path)) == 1


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("voco_data/dicom/pixels/decode.py", "import pydicom"),
        ("voco_data/store/writer.py", "import zarr"),
        ("voco_data/torchlike.py", "import torchlike"),
        ("voco_data/bench/peers.py", "import torch"),
        ("voco_models/data/loader.py", "from voco_data.store.reader import Store"),
        ("voco_models/networks/backbones.py", "import timm"),
        ("flows/demo.py", "from prefect import flow"),
    ],
)
def test_what_is_allowed_is_not_reported(tmp_path: Path, path: str, code: str) -> None:
    plant(tmp_path, path, code)
    assert violations(tmp_path) == []


def plant(root: Path, path: str, code: str) -> None:
    file = root / path
    file.parent.mkdir(parents=True)
    file.write_text(code)


def test_no_package_shadows_what_prefect_and_dask_need() -> None:
    assert not (PROJECT / "docker" / "__init__.py").exists()
    assert not (PROJECT / "flows" / "dask.py").exists()


IMPORT_WITHOUT = """
    import importlib, pkgutil, sys

    class Hiding:
        # a finder that does not see some packages, as where they are not installed

        def __init__(self, finder):
            self.finder = finder

        def find_spec(self, name, path=None, target=None):
            if name.partition(".")[0] not in hidden:
                return self.finder.find_spec(name, path, target)

        def __getattr__(self, name):
            return getattr(self.finder, name)

    hidden = set(sys.argv[2].split(","))
    sys.meta_path[:] = map(Hiding, sys.meta_path)
    names = sys.argv[1].split(",")
    for name in list(names):
        package = importlib.import_module(name)
        if hasattr(package, "__path__") and name in ("voco_data", "voco_models"):
            walk = pkgutil.walk_packages(package.__path__, f"{name}.")
            # the peers of `voco bench` each import a library that may be absent: that is their job
            names += [module.name for module in walk if ".bench.peers." not in module.name]
    for name in names:
        importlib.import_module(name)
    print(len(names))
"""


def import_without(modules: str, hidden: str) -> subprocess.CompletedProcess[str]:
    """Import modules (packages with all theirs) in a process where some libraries are absent."""
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(IMPORT_WITHOUT), modules, hidden],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("modules", "hidden"),
    [
        # PIL is missing here only because torchvision itself, under timm, needs it.
        (
            "voco_models",
            "prefect,pydicom,SimpleITK,numba,dask,distributed,scipy,matplotlib,sklearn,obstore",
        ),
        ("voco_data", "torch,torchvision,timm,prefect,voco_models,flows"),
        (
            "voco_data.store.reader,voco_data.store.catalogue,voco_data.labels.table,voco_data.labels.splits",
            "zarr,pydicom,SimpleITK,numba,dask,distributed,scipy,imagecodecs,PIL,torch,obstore,prefect",
        ),
    ],
)
def test_every_floor_imports_without_what_it_must_not_need(modules: str, hidden: str) -> None:
    done = import_without(modules, hidden)
    assert done.returncode == 0, done.stderr


def test_what_is_hidden_is_missed() -> None:
    done = import_without("voco_data.dicom.header", "pydicom")
    assert done.returncode != 0
    assert "No module named 'pydicom'" in done.stderr


def test_help_is_light() -> None:
    heavy = {"torch", "prefect", "zarr", "pandas", "numpy", "pydicom", "dask", "SimpleITK"}
    code = f"""
        import sys
        from flows.command import main
        try:
            main(["--help"])
        except SystemExit as stop:
            assert stop.code == 0
        print("loaded:", sorted({heavy} & set(sys.modules)))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "loaded: []"
