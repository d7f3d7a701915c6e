"""No value of a header gets to stderr: not in a message of voco, nor in a warning of a library."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from tests.support.hostile_headers import WORDS, stderr_of, write_hostile_archive


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hostile") / "archive"
    write_hostile_archive(folder)
    return folder


@pytest.mark.parametrize("mode", [pytest.param("--estimate", marks=pytest.mark.slow), "--keep-ids"])
def test_headers_are_not_quoted(archive: Path, tmp_path: Path, mode: str) -> None:
    """In the index, in worker processes, and with the ids of the archive."""
    words = ["--spec", "pretrain", "--workers", "2", mode]
    printed = stderr_of("preprocess", archive, "--root", tmp_path / "root", *words)
    assert not [word for word in WORDS if word in printed]
    assert "Warning" not in printed
    if mode != "--estimate":
        (ledger,) = (tmp_path / "root").glob("runs/*/ledger.parquet")
        rows = pd.read_parquet(ledger).query("kind == 'series'")
        assert {"stored", "refused"} <= set(rows["status"])  # the values were read
