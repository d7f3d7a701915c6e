"""Two runs at once: on one store, and on two stores of one root."""

from __future__ import annotations

import multiprocessing
import stat
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from tests.support import store_truth
from tests.support.chaos_archive import SPECS, make_archive, words, write_specs
from tests.support.project import PROJECT
from voco_data.deidentification import pseudonyms
from voco_data.errors import VocoError
from voco_data.storage.local import LocalStorage
from voco_data.store.writer import open_for_writing


def start(line: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "flows.command", *line],
        cwd=PROJECT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def end(run: subprocess.Popen[str]) -> tuple[int, str]:
    _, errors = run.communicate(timeout=200)
    return run.returncode, errors


def test_a_second_run_waits_or_says_why_not(tmp_path: Path) -> None:
    archive, specs = make_archive(tmp_path / "archive"), write_specs(tmp_path / "specs.json")
    root = tmp_path / "root"
    line = words(archive, root, specs, "--workers", "1")
    with open_for_writing(LocalStorage(root), SPECS[0]):
        code, errors = end(start(line))
        assert code == 1
        assert "another run (process" in errors.splitlines()[-1]
        assert "--wait SECONDS" in errors.splitlines()[-1]
        assert "Traceback" not in errors
    first, second = start([*line, "--wait", "150"]), start([*line, "--wait", "150"])
    for run in (first, second):
        code, errors = end(run)
        assert code == 0, errors
    store_truth.check_root(root)
    store_truth.check_finished(root)
    assert len(list((root / "runs").glob("*/report.html"))) == 2


def test_two_specs_of_one_root_at_once_share_key_map_and_freshness(tmp_path: Path) -> None:
    archive, root = make_archive(tmp_path / "archive"), tmp_path / "root"
    lines = [
        words(archive, root, write_specs(tmp_path / f"{spec.profile}.json", (spec,)), "--workers=1")
        for spec in SPECS
    ]
    for run in [start(line) for line in lines]:
        code, errors = end(run)
        assert code == 0, errors
    store_truth.check_finished(root)
    patients = [
        {line["patient_id"] for line in store_truth.read_catalogue(root / spec.name).values()}
        for spec in SPECS
    ]
    assert patients[0] == patients[1]
    private = pd.read_parquet(root / "private" / "ids.parquet")
    assert patients[0] <= set(private["pseudonym"])
    refused = pd.read_parquet(root / "freshness.parquet").query("reason != ''")
    assert set(refused["reason"]) == {"too_few_slices"}


def test_two_runs_with_their_specs_crosswise_do_not_wait_for_each_other(tmp_path: Path) -> None:
    archive, root = make_archive(tmp_path / "archive"), tmp_path / "root"
    orders = (SPECS, SPECS[::-1])
    runs = [
        start(
            [
                *words(archive, root, write_specs(tmp_path / f"{i}.json", order), "--workers=1"),
                "--wait",
                "150",
            ]
        )
        for i, order in enumerate(orders)
    ]
    for run in runs:
        code, errors = end(run)
        assert code == 0, errors
    store_truth.check_finished(root)


def _name(root: Path, barrier: object, names: object) -> None:
    barrier.wait()  # type: ignore[attr-defined]
    hide = pseudonyms.load_or_make(LocalStorage(root))
    names.put(hide("patient", "x"))  # type: ignore[attr-defined]
    pseudonyms.merge_into_map(LocalStorage(root), hide)


def test_one_key_however_many_make_it_at_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")  # a fork beside Arrow's threads is unsafe
    for attempt in range(3):
        root = tmp_path / str(attempt)
        barrier, names = context.Barrier(4), context.Queue()
        makers = [context.Process(target=_name, args=(root, barrier, names)) for _ in range(4)]
        for maker in makers:
            maker.start()
        found = {names.get(timeout=60) for _ in makers}
        for maker in makers:
            maker.join()
            assert maker.exitcode == 0
        assert len(found) == 1
        key = root / "private" / "ids.key"
        assert stat.S_IMODE(key.stat().st_mode) == 0o600
        assert len(key.read_text().strip()) == 2 * pseudonyms.KEY_BYTES


@pytest.mark.parametrize("text", ["", "abc", "z" * 64, "0" * 63])
def test_a_damaged_key_is_refused_not_replaced(tmp_path: Path, text: str) -> None:
    (tmp_path / "private").mkdir()
    path = tmp_path / "private" / "ids.key"
    path.write_text(text)
    with pytest.raises(VocoError, match="expected a key of 64 hex digits"):
        pseudonyms.load_or_make(LocalStorage(tmp_path))
    assert path.read_text() == text
