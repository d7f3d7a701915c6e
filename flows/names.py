"""`prefect deployment run preprocess` means `preprocess/preprocess`.

A plugin of the `prefect` command line. The flows of voco and their deployments have equal names, so
a name without a slash stands for both. The plugin also keeps schedules as they are when flows are
deployed (`kept_schedules.py`), and warns of a run that nobody would execute (`idle_pools.py`).

The plugin is enabled by `[tool.prefect.plugins]` in pyproject.toml, that is in the folder of this
project, or anywhere by PREFECT_PLUGINS_ENABLED=true.
"""

from __future__ import annotations

import sys
from functools import wraps

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.responses import DeploymentResponse
from prefect.exceptions import ObjectNotFound
from prefect.plugins import HookContext, register_hook

from flows import idle_pools, kept_schedules

PREFECT_PLUGIN_API_REQUIRES = ">=0.1,<1"

_read_by_full_name = PrefectClient.read_deployment_by_name


def full_name(name: str) -> str:
    """`preprocess` → `preprocess/preprocess`; a name with a slash stays as it is."""
    return name if "/" in name else f"{name}/{name}"


@wraps(_read_by_full_name)
async def read_by_any_name(client: PrefectClient, name: str) -> DeploymentResponse:
    """Prefect's lookup, also for short names; for an unknown name it prints the known ones."""
    try:
        return await _read_by_full_name(client, full_name(name))
    except ObjectNotFound:
        if "deploy" in sys.argv:  # it asks whether there is one
            raise
        names = sorted(deployment.name for deployment in await client.read_deployments())
        deployed = ", ".join(names) or "none: run `voco server setup` first"
        print(f"No deployment is named {full_name(name)}. Deployed: {deployed}", file=sys.stderr)
        raise


def accept_short_names() -> None:
    """Let the commands `prefect deployment ...` ask the server for a name without a slash."""
    from prefect.cli import deployment  # its commands check the form of a name before

    deployment._assert_deployment_name_format = lambda name: None  # noqa: ARG005


@register_hook
def setup_environment(*, ctx: HookContext) -> None:  # noqa: ARG001 - pluggy asks for the name
    """Prefect's start-up hook: replace calls of the client."""
    PrefectClient.read_deployment_by_name = read_by_any_name  # type: ignore[method-assign, assignment]
    if {"deployment", "deployments"} & {*sys.argv}:
        accept_short_names()
    kept_schedules.install()
    idle_pools.install()
