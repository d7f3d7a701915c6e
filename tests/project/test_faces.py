"""The public names of each room, pinned, and faces that import nothing heavy."""

from __future__ import annotations

import ast
import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.project import PROJECT

PINNED = Path(__file__).with_name("faces.json")
"""Room → sorted public names. After an intended change: `python -m tests.project.test_faces`."""
HEAVY = (
    "numpy",
    "pandas",
    "pyarrow",
    "zarr",
    "pydicom",
    "SimpleITK",
    "numba",
    "scipy",
    "PIL",
    "dask",
    "distributed",
    "obstore",
    "torch",
    "timm",
    "prefect",
    "jinja2",
)


def faces() -> dict[str, list[str]]:
    """Room → the names that its stub lists."""
    stubs = sorted(PROJECT.glob("voco_*/*/__init__.pyi"))
    return {".".join(stub.relative_to(PROJECT).parts[:2]): names_in(stub) for stub in stubs}


def names_in(stub: Path) -> list[str]:
    nodes = [node for node in ast.parse(stub.read_text()).body if isinstance(node, ast.ImportFrom)]
    return sorted(alias.asname or alias.name for node in nodes for alias in node.names)


ROOMS = list(faces())


def test_public_names_are_pinned() -> None:
    assert faces() == json.loads(PINNED.read_text())


@pytest.mark.parametrize("room", ROOMS)
def test_a_face_gives_every_name_that_it_lists(room: str) -> None:
    package = importlib.import_module(room)
    assert sorted(package.__all__) == faces()[room]
    for name in package.__all__:
        assert getattr(package, name) is not None


@pytest.mark.parametrize("room", ROOMS)
def test_a_face_names_its_key_types_in_its_docstring(room: str) -> None:
    text = importlib.import_module(room).__doc__ or ""
    heading, _, listed = text.partition("---\n")
    assert "Key " in heading
    entries = [line.partition(" : ")[0] for line in listed.splitlines() if " : " in line]
    named = {name for entry in entries for name in entry.split(", ")}
    assert named
    assert named <= set(faces()[room])


def test_faces_import_nothing_heavy() -> None:
    code = f"""
import sys
import {", ".join(ROOMS)}
print("loaded:", sorted(set({HEAVY!r}) & set(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "loaded: []"


if __name__ == "__main__":
    PINNED.write_text(json.dumps(faces(), indent=2) + "\n")
