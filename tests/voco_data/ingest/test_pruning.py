"""`--prune`: rows whose series SOURCE no longer holds, and no row of another archive."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from flows.command import main
from tests.support.ct_files import body, write_slices
from voco_data.errors import InputError
from voco_data.ingest.archives import Archives
from voco_data.ingest.run import PreprocessSummary, preprocess
from voco_data.maintenance.garbage import collect_garbage
from voco_data.maintenance.verification import verify_store
from voco_data.storage.local import LocalStorage
from voco_data.store.reader import Store
from voco_data.store.spec import StoreSpec
from voco_data.store.writer import StoreWriter

SMALL = StoreSpec(profile="small", grid=(6, 24, 24))
OTHER = StoreSpec(profile="other", grid=(4, 16, 16))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two patients in one archive, and one in another; a spec file."""
    for archive, patient, seed in (("a", "one", 1), ("a", "two", 2), ("b", "three", 3)):
        write_slices(tmp_path / archive / patient, body(seed=seed), tags={"PatientID": patient})
    (tmp_path / "specs.json").write_text(f"[{SMALL.canonical_json()}, {OTHER.canonical_json()}]")
    (tmp_path / "small.json").write_text(SMALL.canonical_json())
    return tmp_path


def run(folder: Path, archive: str, specs: str = "specs.json", **options: Any) -> PreprocessSummary:
    given = {"spec_file": folder / specs, "workers": 1, "keep_ids": True, **options}
    return preprocess(folder / archive, folder / "root", **given)


def patients(folder: Path, spec: StoreSpec = SMALL) -> list[str]:
    store = folder / "root" / spec.name
    assert verify_store(store).problems == ()
    return sorted(Store.open(store).catalogue["patient_id"])


def statuses(summary: PreprocessSummary) -> dict[str, str]:
    table = pd.read_parquet(summary.ledger)
    return dict(zip(table["patient_id"], table["status"], strict=True))


def test_what_is_gone_is_listed_then_removed_and_the_ledger_says_so(folder: Path) -> None:
    run(folder, "a")
    run(folder, "b")
    shutil.rmtree(folder / "a" / "two")
    listed = run(folder, "a", prune=True)
    assert statuses(listed) == {"one": "cached", "two": "gone"}
    assert [(row["patient_id"], row["removed"]) for row in listed.gone] == [("two", False)] * 2
    assert (listed.cached, listed.pruned) == (1, 0)
    assert patients(folder) == ["one", "three", "two"]
    # The other store is pruned, too, though this run does not fill it.
    removed = run(folder, "a", "small.json", prune=True, yes=True)
    assert statuses(removed) == {"one": "cached", "two": "pruned"}
    assert (removed.pruned, len(removed.gone)) == (1, 2)
    for spec in (SMALL, OTHER):
        assert patients(folder, spec) == ["one", "three"]
    assert {item.kind for item in collect_garbage(folder / "root").garbage} <= {"previews"}
    again = run(folder, "a", prune=True, yes=True)
    assert statuses(again) == {"one": "cached"}
    assert again.gone == ()
    write_slices(folder / "a" / "two", body(seed=2), tags={"PatientID": "two"})
    assert statuses(run(folder, "a")) == {"one": "cached", "two": "stored"}


def test_a_renamed_file_leaves_its_old_name(folder: Path, tmp_path: Path) -> None:
    from tests.support.chaos_archive import write_nifti

    write_nifti(tmp_path / "n" / "old.nii.gz", 1)
    run(folder, "n")
    (tmp_path / "n" / "old.nii.gz").rename(tmp_path / "n" / "new.nii.gz")
    summary = run(folder, "n", prune=True, yes=True)
    assert statuses(summary) == {"new": "stored", "old": "pruned"}
    assert patients(folder) == ["new"]


def test_a_series_that_two_archives_held_stays_until_both_have_lost_it(folder: Path) -> None:
    shutil.copytree(folder / "a" / "two", folder / "b" / "two")
    for archive in ("a", "b"):
        run(folder, archive)
        shutil.rmtree(folder / archive / "two")
    assert run(folder, "a", prune=True, yes=True).gone == ()
    assert patients(folder) == ["one", "three", "two"]
    assert run(folder, "b", prune=True, yes=True).pruned == 1
    assert patients(folder) == ["one", "three"]


def test_rows_without_a_known_archive_stay(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    run(folder, "a")
    (folder / "root" / "archives.parquet").unlink()  # as a version before would leave it
    shutil.rmtree(folder / "a" / "two")
    assert run(folder, "a", prune=True, yes=True).gone == ()
    assert "2 rows stay, because no run has recorded the archive" in caplog.text
    assert patients(folder) == ["one", "two"]


def test_a_source_whose_series_cannot_be_told_is_refused(folder: Path) -> None:
    run(folder, "a")
    given = {"prune": True, "yes": True}
    with pytest.raises(InputError, match="whole archive"):
        run(folder, "a", **given, include=["one/*"])
    with pytest.raises(InputError, match="--yes goes with --prune"):
        run(folder, "a", yes=True)
    (folder / "a" / "three").symlink_to(folder / "a" / "three")  # cannot be opened
    with pytest.raises(InputError, match="1 file or folder cannot be opened"):
        run(folder, "a", **given)
    for patient in ("one", "two"):
        shutil.rmtree(folder / "a" / patient)
    (folder / "a" / "three").unlink()
    (folder / "a" / "readme.txt").write_text("hello")
    with pytest.raises(InputError, match="holds no series"):
        run(folder, "a", **given)
    assert patients(folder) == ["one", "two"]


def test_a_layout_of_one_kind_prunes_that_kind_only(folder: Path) -> None:
    from tests.support.chaos_archive import write_nifti

    write_nifti(folder / "a" / "four.nii.gz", 4)
    run(folder, "a")
    shutil.rmtree(folder / "a" / "two")
    (folder / "a" / "four.nii.gz").unlink()
    assert run(folder, "a", layout="dicom", prune=True, yes=True).pruned == 1
    assert patients(folder) == ["four", "one"]
    assert run(folder, "a", prune=True, yes=True).pruned == 1
    assert patients(folder) == ["one"]


def test_a_killed_removal_is_completed_by_the_next(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(folder, "a")
    shutil.rmtree(folder / "a" / "two")

    def die(self: StoreWriter, row: int) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(StoreWriter, "_remove_row", die)
        with pytest.raises(KeyboardInterrupt):
            run(folder, "a", prune=True, yes=True)
    assert run(folder, "a", prune=True, yes=True).cached == 1
    for spec in (SMALL, OTHER):
        assert patients(folder, spec) == ["one"]


def test_forget_leaves_no_key_of_the_patient(folder: Path) -> None:
    run(folder, "a", keep_ids=False)
    assert main(["store", "forget", str(folder / "root"), "two", "--yes"]) == 0
    archives = Archives(LocalStorage(folder / "root"))
    store = Store.open(folder / "root" / SMALL.name)
    (held,) = [
        archives.keys_of(name)
        for (name,) in archives._table.execute("SELECT DISTINCT archive FROM held").fetchall()
    ]
    assert len(list(held)) == len(store) == 1


def test_the_command_lists_and_removes(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(folder / "b")
    line = ["preprocess", str(folder / "a"), "--root", str(folder / "root"), "--workers", "1"]
    line += ["--spec-file", str(folder / "small.json")]
    assert main([*line, "--json"]) == 0
    shutil.rmtree(folder / "a" / "two")
    for options, removed in ((["--prune"], False), (["--prune", "--yes"], True)):
        capsys.readouterr()
        assert main([*line, *options, "--json"]) == 0
        told = json.loads(capsys.readouterr().out.splitlines()[-1])
        assert [row["removed"] for row in told["gone"]] == [removed]
        assert told["pruned"] == int(removed)
    capsys.readouterr()
    assert main([*line, "--yes"]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


@pytest.mark.parametrize("keep_ids", [True, False])
@pytest.mark.parametrize("damage", [b"", b"no DICOM"])
def test_damage_prunes_nothing(folder: Path, keep_ids: bool, damage: bytes) -> None:
    write_slices(folder / "a" / "five", body(seed=5), tags={"PatientID": "five"})
    run(folder, "a", keep_ids=keep_ids)
    for path in (folder / "a" / "two").iterdir():
        path.write_bytes(damage)
    shutil.rmtree(folder / "a" / "five")
    removed = run(folder, "a", keep_ids=keep_ids, prune=True, yes=True)
    assert sorted(row["removed"] for row in removed.gone) == [False] * 2 + [True] * 2
    table = pd.read_parquet(removed.ledger).query("kind == 'series'")
    assert sorted(table["status"]) == ["cached", "gone", "pruned"]
    assert "cannot be read" in table.set_index("status").loc["gone", "detail"]
    assert len(patients(folder)) == 2
    # The rows are still known to come from SOURCE, and go once nothing is left of their files.
    shutil.rmtree(folder / "a" / "two")
    assert run(folder, "a", keep_ids=keep_ids, prune=True, yes=True).pruned == 1


def test_a_moved_archive_is_pruned_through_a_link_at_its_old_path(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run(folder, "a", "small.json")
    (folder / "a").rename(folder / "moved")
    shutil.rmtree(folder / "moved" / "two")
    assert run(folder, "moved", "small.json", prune=True).gone == ()
    assert "has not seen SOURCE under this path" in caplog.text
    (folder / "a").symlink_to(folder / "moved")
    for archive in ("moved", "a"):  # one archive under two names
        assert len(run(folder, archive, "small.json", prune=True).gone) == 1
    assert run(folder, "a", "small.json", prune=True, yes=True).pruned == 1
    assert patients(folder) == ["one"]
