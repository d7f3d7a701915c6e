#!/bin/sh
# Make the environment in $1 from pyproject.toml and constraints.txt, and check that it works.
# Needs Python 3.11 or 3.12 (or PYTHON=/path/to/one). Safe to run again.
set -eu
venv=${1:-.venv}

works() {
    "$1" -c 'import sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' \
        >/dev/null 2>&1
}

python=
for candidate in ${PYTHON:-python3.11 python3.12 python3}; do
    if works "$candidate"; then
        python=$candidate
        break
    fi
done
if [ -z "$python" ]; then
    echo "setup: expected Python 3.11 or 3.12 with venv, found none;" \
        "install one, or call make PYTHON=/path/to/python" >&2
    exit 2
fi

if [ ! -x "$venv/bin/python" ] || ! works "$venv/bin/python"; then
    rm -rf "$venv"
    "$python" -m venv "$venv"
fi
echo "setup: installing into $venv (about 6 GB; a few minutes)"
"$venv/bin/python" -m pip install --quiet --constraint constraints.txt \
    --editable '.[ingest,s3,train,volumetric,orchestrate,dev]'

"$venv/bin/python" - <<'CHECK'
import importlib
import sys

for name in ("torch", "torchvision", "timm", "zarr", "prefect", "pydicom", "SimpleITK", "numba", "monai"):
    try:
        importlib.import_module(name)
    except Exception as error:
        sys.exit(
            f"setup: {name} was installed but does not import ({type(error).__name__}: {error}); "
            "remove .venv and run make setup again; torch and torchvision must come from one index"
        )
print("setup: ready")
CHECK
