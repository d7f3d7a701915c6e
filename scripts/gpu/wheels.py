"""A folder of wheels for a machine without a package index: fill it, and install from it.

    python scripts/gpu/wheels.py FOLDER [--python 3.12]      download, on a machine with an index

Nothing that the machine has is installed again, so its PyTorch and NumPy stay as they are.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from packaging.utils import canonicalize_name, parse_wheel_filename

NAMES = (
    "zarr",
    "numcodecs",
    "donfig",
    "google-crc32c",
    "pyyaml",
    "typing-extensions",
    "packaging",
    "xxhash",
    "pydicom",
    "monai",
    "einops",
    "jinja2",
    "markupsafe",
    "platformdirs",
    "tqdm",
    "lazy-loader",
    "matplotlib",
    "contourpy",
    "cycler",
    "fonttools",
    "kiwisolver",
    "pillow",
    "pyparsing",
    "python-dateutil",
    "six",
    "pytest",
    "pytest-timeout",
    "iniconfig",
    "pluggy",
    "pygments",
)
"""What voco and its checks need beside PyTorch, timm, NumPy, pandas and pyarrow, with what these
packages need themselves."""
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")


def download(folder: Path, python: str, constraints: Path) -> None:
    """Fill `folder` with wheels for Linux on x86-64 and a version of Python."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--dest", str(folder)]
    command += ["--no-deps", "--only-binary=:all:", "--python-version", python]
    command += [word for name in PLATFORMS for word in ("--platform", name)]
    subprocess.run([*command, "--constraint", str(constraints), *NAMES], check=True)


def find_missing(folder: Path) -> list[Path]:
    """The wheels of packages that this Python does not have."""
    present = {canonicalize_name(found.name) for found in metadata.distributions()}
    return [
        file
        for file in sorted(folder.glob("*.whl"))
        if parse_wheel_filename(file.name)[0] not in present
    ]


def install(folder: Path, target: Path) -> list[str]:
    """Install what is missing from `folder` to the folder `target`. Returns the wheels' names."""
    wheels = find_missing(folder)
    if wheels:
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"]
        command += ["--disable-pip-version-check", "--upgrade", "--target", str(target)]
        subprocess.run([*command, *map(str, wheels)], check=True)
    return [wheel.name for wheel in wheels]


def main() -> None:
    """Download the wheels."""
    parser = argparse.ArgumentParser(description="Download wheels for a machine without an index.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--python", default="3.12", help="Python of that machine (3.12)")
    args = parser.parse_args()
    download(args.folder, args.python, Path(__file__).resolve().parents[2] / "constraints.txt")


if __name__ == "__main__":
    main()
