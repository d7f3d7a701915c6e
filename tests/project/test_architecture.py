"""The architecture: floors and rooms import downwards, rooms meet at their faces, no circles.

A floor is one of the three packages. A room is a package or a module directly below a floor. The
face of a room is what its `__init__.pyi` lists. Violations are planted to show that each rule can
fail.
"""

from __future__ import annotations

import ast
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from tests.support.project import PROJECT

FLOORS = ("voco_data", "voco_models", "flows")
"""Lowest first: a floor imports those before it."""

ROOMS = {
    "voco_data": (
        "version",
        "batching",
        "reasons",
        "errors",
        "limits",
        "cohort",
        "volumes",
        "storage",
        "nifti",
        "dicom",
        "masks",
        "store",
        "labels",
        "deidentification",
        "cropping",
        "preprocessing",
        "qc",
        "layouts",
        "executors",
        "ingest",
        "maintenance",
        "erasure",
        "phantom",
        "bench",
    ),
    "voco_models": (
        "data",
        "networks",
        "training",
        "objectives",
        "evaluation",
        "stages",
        "bench",
    ),
}
"""Lowest first: a room imports those before it."""

MOST_LINES = 400
"""Of a module, give or take a few."""

FORBIDDEN = {
    "voco_data": {"torch", "torchvision", "timm", "prefect"},
    "voco_models": {
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
        # what fills stores needs the libraries above
        "voco_data.dicom",
        "voco_data.nifti",
        "voco_data.masks",
        "voco_data.cropping",
        "voco_data.preprocessing",
        "voco_data.layouts",
        "voco_data.executors",
        "voco_data.ingest",
        "voco_data.phantom",
    },
    "flows": {"numpy", "pandas", "torch", "timm", "zarr", "dask", "pydicom", "SimpleITK"},
}
"""What the modules of a floor never import, at the top or inside a function."""

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
    """Module or package that the statement names."""
    name: str = ""
    """What it takes from there; empty where it imports the module itself."""

    @property
    def target(self) -> str:
        return f"{self.module}.{self.name}" if self.name else self.module

    def is_of(self, name: str) -> bool:
        return self.target == name or self.target.startswith(f"{name}.")


def imports_of(root: Path) -> Iterator[Import]:
    for floor in FLOORS:
        for file in sorted((root / floor).rglob("*.py")):
            path = file.relative_to(root).as_posix()
            for node in ast.walk(ast.parse(file.read_text(), filename=str(file))):
                for module, name in names_of(node):
                    yield Import(path, node.lineno, module, name)


def names_of(node: ast.AST) -> list[tuple[str, str]]:
    """Modules that an import statement or a call of import_module may load, and what is taken."""
    match node:
        case ast.Import(names=names):
            return [(alias.name, "") for alias in names]
        case ast.ImportFrom(module=str(module), names=names, level=0):
            return [(module, alias.name) for alias in names]
        case ast.ImportFrom():
            return [("a relative import", "")]
        case ast.Call(
            func=ast.Name(id="import_module" | "__import__") | ast.Attribute(attr="import_module"),
            args=[ast.Constant(value=str(module)), *_],
        ):
            return [(module, "")]
        case _:
            return []


def room_of(dotted: str) -> str:
    """The room of a module, such as `voco_data.store`; a floor itself has none."""
    return ".".join(dotted.split(".")[:2]) if "." in dotted else ""


def module_of(path: str) -> str:
    return path.removesuffix(".py").replace("/", ".").removesuffix(".__init__")


def violations(root: Path) -> list[str]:
    """Imports that point up, miss the face of a room, or take a library from its owner."""
    found = []
    for item in imports_of(root):
        checks = (points_up(item), misses_the_face(root, item), takes_a_library(item))
        found += [f"{item.path}:{item.line} imports {item.target}: {why}" for why in checks if why]
    return found


def points_up(item: Import) -> str:
    floor = item.path.partition("/")[0]
    theirs = item.module.partition(".")[0]
    if theirs not in FLOORS:
        return ""
    if theirs != floor:
        return "a higher floor" if FLOORS.index(theirs) > FLOORS.index(floor) else ""
    ours, room = room_of(module_of(item.path)), room_of(item.target)
    if ours == room or floor not in ROOMS or not ours:
        return ""
    order = [f"{floor}.{name}" for name in ROOMS[floor]]
    if room not in order or ours not in order:
        return "a room without a place in ROOMS"
    return "a higher room" if order.index(room) > order.index(ours) else ""


def misses_the_face(root: Path, item: Import) -> str:
    """Whether a module reaches past the face of another room."""
    room = room_of(item.target)
    if item.module.partition(".")[0] not in ROOMS or room == room_of(module_of(item.path)):
        return ""
    if not (root / room.replace(".", "/")).is_dir() or room.endswith(".bench"):
        return ""
    if item.target == room:
        return ""
    if item.module != room:
        return f"import it from {room}"
    return "" if item.name in face_of(root, room) else f"the face of {room} does not list it"


def face_of(root: Path, room: str) -> frozenset[str]:
    """The names that the stub of a room lists."""
    stub = root / room.replace(".", "/") / "__init__.pyi"
    if not stub.exists():
        return frozenset()
    nodes = ast.parse(stub.read_text()).body
    return frozenset(
        alias.name for node in nodes if isinstance(node, ast.ImportFrom) for alias in node.names
    )


def takes_a_library(item: Import) -> str:
    if item.module == "a relative import":
        return "name the module in full"
    floor = item.path.partition("/")[0]
    for name in FORBIDDEN[floor]:
        if item.is_of(name) and not (name == "torch" and item.path.startswith(PEERS)):
            return f"{floor} never imports it"
    for name, owners in OWNERS.items():
        if item.is_of(name) and not item.path.startswith(owners):
            return f"only {', '.join(owners)} may"
    return ""


def circle(root: Path) -> list[str]:
    """Modules that import each other in a loop; faces count as what they hand on."""
    graph: dict[str, set[str]] = {}
    for item in imports_of(root):
        if item.module.partition(".")[0] in FLOORS:
            graph.setdefault(module_of(item.path), set()).add(defining_module(root, item))
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def defining_module(root: Path, item: Import) -> str:
    """The module that a name comes from, looked up through the face of its room."""
    stub = root / item.module.replace(".", "/") / "__init__.pyi"
    if stub.exists():
        for node in ast.parse(stub.read_text()).body:
            if isinstance(node, ast.ImportFrom) and item.name in {a.name for a in node.names}:
                return f"{item.module}.{node.module or item.name}"
    path = root / item.target.replace(".", "/")
    return item.target if path.is_dir() or path.with_suffix(".py").exists() else item.module


def too_long(root: Path) -> list[str]:
    files = [file for floor in FLOORS for file in sorted((root / floor).rglob("*.py"))]
    return [file.name for file in files if len(file.read_text().splitlines()) > MOST_LINES]


def forwarding(root: Path) -> list[str]:
    """Modules that hold imports and nothing else; a room's `__init__` may."""
    found = []
    for floor in FLOORS:
        for file in sorted((root / floor).rglob("*.py")):
            body = ast.parse(file.read_text()).body
            rest = [node for node in body if not isinstance(node, ast.Import | ast.ImportFrom)]
            if file.name != "__init__.py" and all(isinstance(node, ast.Expr) for node in rest):
                found.append(file.relative_to(root).as_posix())
    return found


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
        ("voco_models/networks/heads.py", "import timm"),
        ("voco_models/data/loader.py", "from monai.data import CacheDataset"),
        ("flows/demo.py", "import numpy as np"),
        # a higher floor, a higher room, a room that has no place
        ("voco_data/store/reader.py", "from voco_models.networks import GroupHeads"),
        ("voco_models/networks/heads.py", "if True:\n    from flows.demo import demo"),
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
