"""Where stores lie, as a parameter of a flow."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeAlias

from pydantic import AfterValidator

from voco_data.storage.urls import path_or_url

Where: TypeAlias = Annotated[str | Path, AfterValidator(path_or_url)]
"""A folder, or the URL of one in an object store. Parameters come as texts; paths become paths."""
