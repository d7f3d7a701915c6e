"""No value of a header gets to stderr: not in a message of voco, nor in a warning of a library."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from tests.support.hostile_headers import WORDS, write_hostile_archive
from tests.support.project import PROJECT


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hostile") / "archive"
    write_hostile_archive(folder)
    return folder


def voco(*words: str | Path) -> str:
    """Run a command in which each warning of Python counts; what it printed to stderr."""
    done = subprocess.run(
        [sys.executable, "-m", "flows.command", *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": str(PROJECT), "PYTHONWARNINGS": "always"},
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


@pytest.mark.parametrize("mode", [pytest.param("--estimate", marks=pytest.mark.slow), "--keep-ids"])
def test_headers_are_not_quoted(archive: Path, tmp_path: Path, mode: str) -> None:
    """In the index, in worker processes, and with the ids of the archive."""
    words = ["--spec", "pretrain", "--workers", "2", mode]
    printed = voco("preprocess", archive, "--root", tmp_path / "root", *words)
    assert not [word for word in WORDS if word in printed]
    assert "Warning" not in printed
    if mode != "--estimate":
        (ledger,) = (tmp_path / "root").glob("runs/*/ledger.parquet")
        rows = pd.read_parquet(ledger).query("kind == 'series'")
        assert {"stored", "refused"} <= set(rows["status"])  # the values were read
