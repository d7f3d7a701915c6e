"""The rules of the architecture, and how to find what breaks them.

A floor is one of the three packages. A room is a package or a module directly below a floor. The
face of a room is what its `__init__.pyi` lists.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

FLOORS = ("voco_data", "voco_models", "flows")
"""Lowest first: a floor imports those before it."""

ROOMS = {
    "voco_data": (
        "temporary_folders",
        "cache_folders",
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
        "selection",
        "deidentification",
        "cropping",
        "preprocessing",
        "qc",
        "layouts",
        "executors",
        "ingest",
        "paired_images",
        "structured_report",
        "maintenance",
        "drift",
        "erasure",
        "withdrawal",
        "phantom",
        "bench",
    ),
    "voco_models": (
        "processes",
        "recorded_options",
        "data",
        "networks",
        "training",
        "objectives",
        "evaluation",
        "prediction",
        "explanation",
        "localisation",
        "probes",
        "stages",
        "tracking",
        "experiments",
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
        "voco_data.structured_report",
        "voco_data.drift",
        "voco_data.phantom",
    },
    "flows": {"numpy", "pandas", "torch", "timm", "zarr", "dask", "pydicom", "SimpleITK"},
}
"""What the modules of a floor never import, at the top or inside a function."""

PEERS = "voco_data/bench/peers"
"""Other tools, measured beside ours: the one place in voco_data that may import torch."""

OWNERS = {
    "pydicom": (
        "voco_data/dicom/",
        "voco_data/masks/dicom_seg",
        "voco_data/phantom/",
        "voco_data/structured_report/",
        PEERS,
    ),
    "highdicom": ("voco_data/structured_report/",),
    "SimpleITK": ("voco_data/phantom/", PEERS),
    "nnunetv2": (PEERS,),
    "torchio": (PEERS,),
    "nibabel": ("voco_data/nifti",),
    "eyepy": ("voco_data/paired_images/oct_scans",),
    "nrrd": ("voco_data/masks/nrrd",),
    "zarr": ("voco_data/store/",),
    "numcodecs": ("voco_data/store/chunks/codec",),
    "obstore": ("voco_data/storage/object_store",),
    "dask": ("voco_data/executors/dask",),
    "distributed": ("voco_data/executors/dask",),
    "timm": ("voco_models/networks/backbones",),
    "matplotlib": ("voco_models/evaluation/plots",),
    "prefect": ("flows/",),
    "monai": ("voco_models/networks/monai_backbones", "voco_models/bench/peers/", PEERS),
    "captum": ("voco_models/explanation/grad_cam",),
    "mlflow": ("voco_models/tracking/mlflow_mirror",),
    "litdata": ("voco_models/bench/peers/",),
    "onnx": ("voco_models/prediction/onnx_model",),
    "onnxruntime": ("voco_models/prediction/onnx_model",),
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
