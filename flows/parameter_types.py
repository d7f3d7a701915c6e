"""Types of flow parameters. Prefect gives texts; a flow gets paths.

Names that voco knows are choices on Prefect's form. The names of recipes are written out, because a
machine that deploys need not have torch; a test compares them with the recipes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, TypeAlias

from pydantic import AfterValidator

from voco_data.storage import path_or_url

StoreLocation: TypeAlias = Annotated[str | Path, AfterValidator(path_or_url)]
"""A folder, or the URL of one in an object store."""

PretrainRecipeName: TypeAlias = (
    Literal["default", "tiny", "small", "default_s", "grid4", "grid4_s", "authors"] | str
)
"""A pretraining recipe, or the path of a .toml file."""
FinetuneRecipeName: TypeAlias = Literal["default", "code", "tiny"] | str
"""A fine-tuning recipe, or the path of a .toml file."""
ProjectionRecipeName: TypeAlias = Literal["default", "tiny"] | str
"""A projection recipe, or the path of a .toml file."""
