"""The database of a new Prefect server, made once: its migrations take ten seconds."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

NAME = "prefect.db"
"""Of the file, in PREFECT_HOME."""
PROGRAM = """
import asyncio
from prefect.server.database import provide_database_interface

asyncio.run(provide_database_interface().create_db())
"""


def make(home: Path) -> Path:
    """Migrate an empty SQLite database in a process of its own; returns its file."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    subprocess.run(
        [sys.executable, "-c", PROGRAM], env=own | {"PREFECT_HOME": str(home)}, check=True
    )
    return home / NAME


def copy(made: Path, home: Path, name: str = NAME) -> None:
    """Copy it to the home of a server that has not been started."""
    home.mkdir(parents=True, exist_ok=True)
    shutil.copy(made, home / name)
