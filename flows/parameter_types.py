"""Types of flow parameters. Prefect gives texts; a flow gets paths."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeAlias

from pydantic import AfterValidator

from voco_data.storage import path_or_url

StoreLocation: TypeAlias = Annotated[str | Path, AfterValidator(path_or_url)]
"""A folder, or the URL of one in an object store."""
