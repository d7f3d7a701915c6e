"""The architecture: floors and rooms import downwards, rooms meet at their faces, no circles.

Violations are planted to show that each rule can fail.
"""

from __future__ import annotations

import subprocess
import sys
import textwrap
import tomllib
from pathlib import Path

import pytest

from tests.support.architecture import (
    FLOORS,
    MOST_LINES,
    ROOMS,
    circle,
    forwarding,
    too_long,
    violations,
)
from tests.support.project import PROJECT


def test_imports_point_down_through_faces_and_libraries_have_one_owner() -> None:
    assert violations(PROJECT) == []


def test_every_room_has_its_place() -> None:
    for floor, names in ROOMS.items():
        folder = PROJECT / floor
        there = {path.stem for path in folder.glob("*.py")} - {"__init__"}
        there |= {path.parent.name for path in folder.glob("*/__init__.py")}
        assert there == set(names)


def test_no_module_imports_itself_by_way_of_others() -> None:
    assert circle(PROJECT) == []


def test_modules_are_short_and_have_something_to_say() -> None:
    assert too_long(PROJECT) == []
    assert forwarding(PROJECT) == []


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("voco_data/store/reader.py", "import torch"),
        ("voco_data/bench/floor.py", "import torch"),
        ("voco_data/bench/floor.py", "import monai"),
        ("voco_data/bench/peers.py", "import prefect"),
        ("voco_data/ingest/run.py", "def f():\n    import prefect.flows"),
        ("voco_data/ingest/run.py", "import pydicom.uid"),
        ("voco_data/ingest/run.py", "from dask import delayed"),
        ("voco_data/ingest/run.py", "import zarr"),
        ("voco_data/storage/lease.py", "import obstore"),
        ("voco_data/ingest/run.py", "from . import store"),
        ("voco_data/store/reader.py", "def f():\n    from numcodecs import blosc"),
        ("voco_models/data/loader.py", "from voco_data import ingest"),
        ("voco_models/data/loader.py", "import importlib\nimportlib.import_module('zarr.storage')"),
        ("voco_models/networks/encoder.py", "import timm"),
        ("voco_models/networks/volume_encoder.py", "import monai"),
        ("voco_models/data/loader.py", "from monai.data import CacheDataset"),
        ("voco_models/evaluation/report.py", "def f():\n    import matplotlib.figure"),
        ("flows/demo_report.py", "from matplotlib.figure import Figure"),
        ("flows/demo.py", "import numpy as np"),
        # a higher floor, a higher room, a room that has no place
        ("voco_data/store/reader.py", "from voco_models.networks import GroupHeads"),
        ("voco_models/networks/encoder.py", "if True:\n    from flows.demo import demo"),
        ("voco_data/storage/local.py", "from voco_data.store import CHUNKS"),
        ("voco_data/storage/local.py", "from voco_data import ingest"),
        ("voco_data/errors.py", "import voco_data.store"),
        ("voco_models/training/engine.py", "def f():\n    from voco_models.stages import pretrain"),
        ("voco_data/store/reader.py", "from voco_data.attic import thing"),
        # past a face, or what it does not list
        ("voco_data/ingest/run.py", "from voco_data.room.inner import Thing"),
        ("voco_data/ingest/run.py", "from voco_data.room import Other"),
        ("flows/verbs.py", "from voco_data.room.inner import Thing"),
    ],
)
def test_a_planted_violation_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, code: str
) -> None:
    plant_room(tmp_path, monkeypatch)
    plant(tmp_path, path, code)
    assert len(violations(tmp_path)) == 1


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("voco_data/dicom/pixels/decode.py", "import pydicom"),
        ("voco_data/store/writer.py", "import zarr"),
        ("voco_data/errors.py", "import torchlike"),
        ("voco_data/bench/peers.py", "import torch"),
        ("voco_models/networks/backbones.py", "import timm"),
        ("voco_models/evaluation/plots.py", "def f():\n    from matplotlib.figure import Figure"),
        ("voco_models/networks/monai_backbones.py", "import monai"),
        ("flows/demo.py", "from prefect import flow"),
        ("voco_data/ingest/run.py", "from voco_data.room import Thing"),
        ("voco_data/room/other.py", "from voco_data.room.inner import Thing"),
        ("flows/verbs.py", "from voco_data.room import Thing"),
        ("flows/verbs.py", "from voco_data import room"),
    ],
)
def test_what_is_allowed_is_not_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, code: str
) -> None:
    plant_room(tmp_path, monkeypatch)
    plant(tmp_path, path, code)
    assert violations(tmp_path) == []


def plant(root: Path, path: str, code: str) -> None:
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(code)


def plant_room(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A room `voco_data.room` whose face lists `Thing`, the lowest of all."""
    monkeypatch.setitem(ROOMS, "voco_data", ("room", *ROOMS["voco_data"]))
    plant(root, "voco_data/room/__init__.py", "")
    plant(root, "voco_data/room/__init__.pyi", "from .inner import Thing as Thing\n")
    plant(root, "voco_data/room/inner.py", "class Thing: ...\nclass Other: ...\n")


@pytest.mark.parametrize(
    "files",
    [
        {"inner": "import voco_data.room.other", "other": "from voco_data.room import inner"},
        {"inner": "from voco_data.room import X", "other": "import voco_data.room.inner"},
        {"inner": "def f():\n    from voco_data.room.inner import g"},
    ],
)
def test_a_planted_circle_is_found(tmp_path: Path, files: dict[str, str]) -> None:
    plant(tmp_path, "voco_data/room/__init__.py", "")
    plant(tmp_path, "voco_data/room/__init__.pyi", "from .other import X as X\n")
    for name, code in files.items():
        plant(tmp_path, f"voco_data/room/{name}.py", code)
    assert circle(tmp_path)


def test_planted_modules_of_the_wrong_size_are_found(tmp_path: Path) -> None:
    plant(tmp_path, "voco_data/long.py", "x = 1\n" * (MOST_LINES + 1))
    plant(tmp_path, "voco_data/forwards.py", '"""Names."""\nfrom voco_data.long import x\n')
    plant(tmp_path, "voco_data/__init__.py", "from voco_data.long import x\n")
    assert too_long(tmp_path) == ["long.py"]
    assert forwarding(tmp_path) == ["voco_data/forwards.py"]


def test_an_installation_has_every_package() -> None:
    """`pip install .` copies the packages that pyproject.toml lists, and no others."""
    settings = tomllib.loads((PROJECT / "pyproject.toml").read_text())
    files = [file for floor in FLOORS for file in (PROJECT / floor).rglob("__init__.py")]
    there = [".".join(file.parent.relative_to(PROJECT).parts) for file in files]
    assert settings["tool"]["setuptools"]["packages"] == sorted(there)


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
            (
                "prefect,pydicom,SimpleITK,numba,dask,distributed,scipy,matplotlib,sklearn,obstore,"
                "monai,einops"
            ),
        ),
        ("voco_data", "torch,torchvision,timm,prefect,voco_models,flows"),
        (
            "voco_data.store.reader,voco_data.store.catalogue,voco_data.labels.table,voco_data.selection.split_file",
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
