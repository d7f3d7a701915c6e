"""Two runs at once: on one store, and on two stores of one root."""

from __future__ import annotations

import multiprocessing
import stat
from pathlib import Path

import pandas as pd
import pytest

from tests.support import store_truth
from tests.support.chaos_archive import SPECS, make_archive, words, write_specs
from tests.support.zygote import Process, Zygote
from voco_data.deidentification import pseudonyms
from voco_data.errors import VocoError
from voco_data.storage.local import LocalStorage
from voco_data.store.writer import open_for_writing


def start(zygote: Zygote, line: list[str], log: Path) -> Process:
    return Process.start(zygote, line, log)


def test_a_second_run_waits_or_says_why_not(tmp_path: Path, zygote: Zygote) -> None:
    archive, specs = make_archive(tmp_path / "archive"), write_specs(tmp_path / "specs.json")
    root = tmp_path / "root"
    line = words(archive, root, specs, "--workers", "1")
    with open_for_writing(LocalStorage(root), SPECS[0]):
        code, said = start(zygote, line, tmp_path / "log").end()
        assert code == 1
        assert "another run (process" in said[-1]
        assert "--wait SECONDS" in said[-1]
        assert "Traceback" not in "\n".join(said)
    both = [start(zygote, [*line, "--wait", "150"], tmp_path / f"log-{n}") for n in range(2)]
    for run in both:
        code, said = run.end()
        assert code == 0, said
    store_truth.check_root(root)
    store_truth.check_finished(root)
    assert len(list((root / "runs").glob("*/report.html"))) == 2


def test_two_specs_of_one_root_at_once_share_key_map_and_freshness(
    tmp_path: Path, zygote: Zygote
) -> None:
    archive, root = make_archive(tmp_path / "archive"), tmp_path / "root"
    lines = [
        words(archive, root, write_specs(tmp_path / f"{spec.profile}.json", (spec,)), "--workers=1")
        for spec in SPECS
    ]
    for run in [start(zygote, line, tmp_path / f"log-{n}") for n, line in enumerate(lines)]:
        code, said = run.end()
        assert code == 0, said
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


def test_two_runs_with_their_specs_crosswise_do_not_wait_for_each_other(
    tmp_path: Path, zygote: Zygote
) -> None:
    archive, root = make_archive(tmp_path / "archive"), tmp_path / "root"
    orders = (SPECS, SPECS[::-1])
    runs = [
        start(
            zygote,
            [
                *words(archive, root, write_specs(tmp_path / f"{i}.json", order), "--workers=1"),
                "--wait",
                "150",
            ],
            tmp_path / f"log-{i}",
        )
        for i, order in enumerate(orders)
    ]
    for run in runs:
        code, said = run.end()
        assert code == 0, said
    store_truth.check_finished(root)


ATTEMPTS = 3


def _name(folder: Path, barrier: object, names: object) -> None:
    for attempt in range(ATTEMPTS):
        root = LocalStorage(folder / str(attempt))
        barrier.wait()  # type: ignore[attr-defined]
        hide = pseudonyms.load_or_make(root)
        names.put((attempt, hide("patient", "x")))  # type: ignore[attr-defined]
        pseudonyms.merge_into_map(root, hide)


def test_one_key_however_many_make_it_at_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")  # a fork beside Arrow's threads is unsafe
    barrier, names = context.Barrier(4), context.Queue()
    makers = [context.Process(target=_name, args=(tmp_path, barrier, names)) for _ in range(4)]
    for maker in makers:
        maker.start()
    found = {names.get(timeout=60) for _ in range(4 * ATTEMPTS)}
    for maker in makers:
        maker.join()
        assert maker.exitcode == 0
    assert sorted(attempt for attempt, _ in found) == list(range(ATTEMPTS))
    for attempt in range(ATTEMPTS):
        key = tmp_path / str(attempt) / "private" / "ids.key"
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
