"""The deployments of prefect.yaml, with the paths of a site, and their schedules as they are."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import yaml

from voco_data.errors import InputError, VocoError
from voco_data.storage import is_url
from voco_data.temporary_folders import temporary_folder

DEPLOYMENTS_FILE: Final = "prefect.yaml"
SHIPPED: Final = Path("share", "voco", DEPLOYMENTS_FILE)
"""Where a wheel installs the file, in the environment."""
SITE_PATHS: Final = ("source", "root", "labels", "runs")
"""The paths of a site. All flows that have one of them as a parameter get the same path."""
_PARAMETERS: Final = {name: name for name in SITE_PATHS} | {"store": "root", "stores": "root"}
"""Parameters that are such a path, or a list of one."""


def find_file(folder: Path) -> Path:
    """prefect.yaml of `folder`; where it has none, that of the clone or of the installed wheel."""
    places = (
        folder / DEPLOYMENTS_FILE,
        Path(__file__).parents[1] / DEPLOYMENTS_FILE,
        Path(sysconfig.get_path("data")) / SHIPPED,
    )
    for place in places:
        if place.is_file():
            return place
    raise InputError(f"{folder}: expected {DEPLOYMENTS_FILE}, found none there; install voco again")


def read_deployments(file: Path, folder: Path, paths: Mapping[str, str]) -> dict[str, Any]:
    """The content of `file` with `paths` instead of its own, all of them absolute.

    `paths` maps names of `SITE_PATHS`; of others the file's value is taken, relative to `folder`.
    A deployment with another value than that of the file's section `site` keeps it.

    Raises InputError if the file is no prefect.yaml of voco.
    """
    try:
        content = yaml.safe_load(file.read_text())
        site = content["definitions"]["site"]
        named = {deployment["name"]: deployment for deployment in content["deployments"]}
    except (OSError, yaml.YAMLError, TypeError, KeyError) as error:
        raise InputError(
            f"{file}: expected a prefect.yaml with definitions.site and deployments ({error})"
        ) from error
    for deployment in named.values():
        parameters = dict(deployment.get("parameters") or {})
        for name, value in parameters.items():
            of = _PARAMETERS.get(name)
            if of is not None and value in (site.get(of), [site.get(of)]):
                path = make_absolute(paths.get(of, site[of]), folder)
                parameters[name] = [path] if isinstance(value, list) else path
        deployment["parameters"] = parameters
    result: dict[str, Any] = content
    return result


def make_absolute(path: str, folder: Path) -> str:
    """A URL as it is, a path relative to `folder`."""
    return path if is_url(path) else str((folder / path).absolute())


def deploy(content: Mapping[str, Any], folder: Path) -> list[str]:
    """Deploy all flows of a prefect.yaml from `folder`, without a prompt; returns their names.

    Raises VocoError if Prefect reports an error.
    """
    with temporary_folder() as temporary:
        file = temporary / DEPLOYMENTS_FILE
        file.write_text(yaml.safe_dump(dict(content), sort_keys=False))
        words = ["--no-prompt", "deploy", "--all", "--prefect-file", str(file)]
        done = subprocess.run(
            [sys.executable, "-m", "prefect", *words],
            cwd=folder,
            env=os.environ | {"PREFECT_PLUGINS_ENABLED": "true", "NO_COLOR": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode != 0:
        lines = (done.stdout + done.stderr).strip().splitlines() or ["no message"]
        raise VocoError(f"prefect deploy failed: {lines[-1]}")
    return sorted(deployment["name"] for deployment in content["deployments"])
