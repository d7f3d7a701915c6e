"""Erasing a patient: nothing of it is left, nothing of others is lost, whenever it dies."""

from __future__ import annotations

import itertools
import json
import shutil
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from flows.command import main
from tests.support.ct_files import body, write_slices
from voco_data.deidentification import pseudonyms
from voco_data.erasure.patient import forget_patient
from voco_data.erasure.search import find_residue
from voco_data.errors import InputError
from voco_data.ingest.run import PreprocessSummary, preprocess
from voco_data.ingest.seen_files import EarlierResult, SeenFiles
from voco_data.maintenance.garbage import collect_garbage
from voco_data.maintenance.pins import pin_store
from voco_data.maintenance.verification import verify_store
from voco_data.reasons import Reason
from voco_data.storage import atomic
from voco_data.storage.local import LocalStorage
from voco_data.store.reader import Store
from voco_data.store.spec import StoreSpec
from voco_data.store.writer import open_for_writing

SMALL = StoreSpec(profile="small", grid=(6, 24, 24))
OTHER = StoreSpec(profile="other", grid=(4, 16, 16))
PATIENT, NEIGHBOUR, THIRD = "anna-4711", "bert-4712", "cleo-4713"
"""anna has two scans, one refused series, and a file beside; bert a copy of one of her scans."""


def fill(archive: Path, root: Path, **options: Any) -> PreprocessSummary:
    specs = root.with_name("specs.json")
    specs.write_text(f"[{SMALL.canonical_json()}, {OTHER.canonical_json()}]")
    return preprocess(archive, root, spec_file=specs, workers=1, **options)


def add_patients(archive: Path) -> None:
    for folder, patient, seed in (
        (f"{PATIENT}/first", PATIENT, 1),
        (f"{PATIENT}/second", PATIENT, 2),
        (f"{NEIGHBOUR}/copy", NEIGHBOUR, 1),
        (f"{THIRD}/own", THIRD, 3),
    ):
        tags = {"PatientID": patient, "StudyInstanceUID": f"1.2.{seed}.{patient[-4:]}"}
        write_slices(archive / folder, body(seed=seed), tags=tags)
    write_slices(archive / PATIENT / "short", body()[:4], tags={"PatientID": PATIENT})
    (archive / PATIENT / "notes.txt").write_text("hello")


@pytest.fixture(scope="module")
def hidden(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with pseudonyms, and two runs."""
    folder = tmp_path_factory.mktemp("hidden")
    add_patients(folder / "archive")
    fill(folder / "archive", folder / "root")
    fill(folder / "archive", folder / "root")
    return folder / "root"


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root that keeps the ids."""
    folder = tmp_path_factory.mktemp("kept")
    add_patients(folder / "archive")
    fill(folder / "archive", folder / "root", keep_ids=True)
    return folder / "root"


def copy_of(root: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(root, tmp_path / "root"))


def texts(root: Path) -> Iterator[tuple[Path, str]]:
    """Every byte under a root, names of files, and tables decoded."""
    for path in root.rglob("*"):
        if path.is_file():
            yield path, str(path.relative_to(root)) + path.read_bytes().decode("latin-1")
            if path.suffix == ".parquet":
                yield path, pd.read_parquet(path).to_csv()


def files_that_say(root: Path, *words: str) -> set[str]:
    return {
        str(path.relative_to(root))
        for path, text in texts(root)
        if any(word in text for word in words)
    }


def pseudonyms_of(root: Path, *originals: str) -> list[str]:
    """By the private map, with all series, studies and sources whose original says one of them."""
    table = pd.read_parquet(root / "private" / "ids.parquet")
    found = [any(o in text for o in originals) for text in table["original"]]
    return list(table["pseudonym"][found])


def traces_of(root: Path) -> list[str]:
    """All that may name the patient in a root with pseudonyms: from catalogues and the map."""
    me = pseudonyms_of(root, PATIENT)
    table = Store.open(root / SMALL.name).catalogue
    mine = table[table["patient_id"].isin(me)]
    assert len(mine) == 2
    return [PATIENT, *me, *mine["series_uid"], *mine["source"], *mine["study_uid"]]


def volumes(store: Path) -> dict[str, bytes]:
    """Series to its voxels."""
    opened = Store.open(store)
    rows = zip(opened.catalogue["series_uid"], opened.catalogue["row"], strict=True)
    return {series: opened.read(row).tobytes() for series, row in rows}


def assert_gone(root: Path, words: list[str], before: dict[str, dict[str, bytes]]) -> None:
    """Nothing says one of the words; all other volumes are as before; stores are sound."""
    assert files_that_say(root, *words) == set()
    for name, held in before.items():
        now = volumes(root / name)
        assert now == {series: data for series, data in held.items() if series not in words}
        assert len(now) == 2
        assert verify_store(root / name).problems == ()
        rows = set(Store.open(root / name).catalogue["row"])
        chunks = {int(p.parts[-4]) for p in (root / name).glob("volumes/c/*/0/0/0")}
        records = {int(p.stem) for p in (root / name).glob("volumes/records/*/*.json")}
        assert chunks == records == rows
        valid = np.frombuffer((root / name / "valid" / "c" / "0").read_bytes(), bool)
        assert set(np.flatnonzero(valid)) == rows
        planned = pd.read_parquet(root / name / "volumes" / "rows.parquet")
        assert set(planned["row"]) == rows


def all_volumes(root: Path) -> dict[str, dict[str, bytes]]:
    return {spec.name: volumes(root / spec.name) for spec in (SMALL, OTHER)}


def test_a_dry_run_lists_and_touches_nothing(hidden: Path) -> None:
    before = {path: path.read_bytes() for path in hidden.rglob("*") if path.is_file()}
    told = forget_patient(hidden, PATIENT)
    assert not told.removed
    assert told.series == 4
    assert {(s["store"], s["series"], s["bytes"]) for s in told.stores} == {
        (SMALL.name, 2, 2 * 6 * 24 * 24),
        (OTHER.name, 2, 2 * 4 * 16 * 16),
    }
    # Two stored, one refused, one file: in each of two runs.
    assert [ledger["rows"] for ledger in told.ledgers] == [4, 4]
    assert told.previews == 1  # bert's scan looks like the other one, and keeps it
    assert {path: path.read_bytes() for path in hidden.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("by", ["id", "pseudonym"])
def test_nothing_is_left_of_a_hidden_patient(hidden: Path, tmp_path: Path, by: str) -> None:
    root = copy_of(hidden, tmp_path)
    words, before = traces_of(root), all_volumes(root)
    assert len(files_that_say(root, *words)) > 10
    patient = PATIENT
    if by == "pseudonym":
        (patient,) = (word for word in pseudonyms_of(root, PATIENT) if word.startswith("p"))
    told = forget_patient(root, patient, yes=True)
    assert told.removed
    assert told.left == ()
    assert_gone(root, words, before)
    assert len(list((root / "previews").rglob("*.jpg"))) == 2
    with pytest.raises(InputError, match="names the patient"):
        forget_patient(root, patient, yes=True)


def test_nothing_is_left_of_a_patient_whose_id_was_kept(kept: Path, tmp_path: Path) -> None:
    root = copy_of(kept, tmp_path)
    before = all_volumes(root)
    table = Store.open(root / SMALL.name).catalogue
    mine = table[table["patient_id"] == PATIENT]
    words = [PATIENT, *mine["series_uid"]]
    forget_patient(root, PATIENT, yes=True)
    assert_gone(root, words, before)
    assert not (root / "private").exists()


def test_reports_and_ledgers_tell_of_the_others(hidden: Path, tmp_path: Path) -> None:
    root = copy_of(hidden, tmp_path)
    ledgers = sorted(root.glob("runs/*/ledger.parquet"))
    twin = pd.read_parquet(ledgers[0])["duplicate_of"]
    assert (twin != "").sum() == 1
    forget_patient(root, PATIENT, yes=True)
    for path in ledgers:
        table = pd.read_parquet(path)
        assert len(table) == 2
        assert (table["duplicate_of"] == "").all()
        assert not table["flags"].str.contains("duplicate").any()
        page = (path.parent / "report.html").read_text()
        assert "voco preprocess: dicom" in page
        assert page.count("data:image/jpeg") == 2


def test_the_others_stay_known_and_the_patient_comes_back_only_from_the_archive(
    hidden: Path, tmp_path: Path
) -> None:
    root = copy_of(hidden, tmp_path)
    shutil.copytree(hidden.parent / "archive", tmp_path / "archive")
    shutil.rmtree(tmp_path / "archive" / PATIENT)
    forget_patient(root, PATIENT, yes=True)
    summary = fill(tmp_path / "archive", root)
    assert (summary.stored, summary.cached, summary.refused) == (0, 2, 0)


def test_the_only_patient_of_a_root(tmp_path: Path) -> None:
    write_slices(tmp_path / "archive" / "a", body(), tags={"PatientID": PATIENT})
    fill(tmp_path / "archive", tmp_path / "root")
    forget_patient(tmp_path / "root", PATIENT, yes=True)
    assert len(Store.open(tmp_path / "root" / SMALL.name)) == 0
    assert files_that_say(tmp_path / "root", PATIENT) == set()
    assert fill(tmp_path / "archive", tmp_path / "root").stored == 1


def test_runs_that_learned_from_the_patient_are_named(kept: Path, tmp_path: Path) -> None:
    root = copy_of(kept, tmp_path)
    run = root / "runs" / "training"
    run.mkdir()
    digest = {"stores": [{"digest": SMALL.digest}]}
    (run / "run.json").write_text(json.dumps(digest))
    pd.DataFrame({"patient_id": [PATIENT]}).to_parquet(run / "labels.parquet")
    (run / "table.parquet").write_bytes(b"PAR1" + bytes(range(64)) + b"\x20\0\0\0PAR1")
    (run / "note.txt").symlink_to("/proc/self/mem")
    pin_store(Store.open(root / SMALL.name), run, "finetune")
    told = forget_patient(root, PATIENT, yes=True)
    assert told.learned_by == (str(run),)
    labels, note, table = told.left
    assert labels == "runs/training/labels.parquet"
    assert note == "runs/training/note.txt (cannot be read: Input/output error)"
    assert table.startswith("runs/training/table.parquet (cannot be read: ")


@pytest.mark.parametrize("patient", ["*", "anna*", "../bert-4712", "anna", "", " ", ".*"])
def test_an_id_is_no_pattern(kept: Path, patient: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in kept.rglob("*")}
    assert main(["store", "forget", str(kept), patient, "--yes"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    untouched = {path: path.stat().st_mtime_ns for path in kept.rglob("*") if path in before}
    assert {p for p in kept.rglob("*") if p.is_file()} <= set(before)
    assert untouched.keys() == before.keys()
    assert len(Store.open(kept / SMALL.name)) == 4


def test_a_store_that_is_being_filled_is_busy(
    hidden: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = copy_of(hidden, tmp_path)
    before = all_volumes(root)
    with open_for_writing(LocalStorage(root), OTHER):
        thread_code: list[int] = []
        call = lambda: thread_code.append(main(["store", "forget", str(root), PATIENT, "--yes"]))  # noqa: E731
        thread = threading.Thread(target=call)
        thread.start()
        thread.join()
    assert thread_code == [1]
    assert "another run" in capsys.readouterr().err
    assert all_volumes(root) == before


class Killed(BaseException):
    """Stands for the end of the process: nobody may handle it."""


@contextmanager
def dying_at(monkeypatch: pytest.MonkeyPatch, number: int) -> Iterator[list[str]]:
    """Die at the `number`-th change of a file, before or after it by turns. Lists the changes."""
    done: list[str] = []

    def change(name: str, act: Any) -> Any:
        def dying(self: Any, *args: Any, **kwargs: Any) -> Any:
            done.append(f"{name} {args[0] if args else self}")
            if len(done) == number and number % 2:
                raise Killed
            result = act(self, *args, **kwargs)
            if len(done) == number:
                raise Killed
            return result

        return dying

    with monkeypatch.context() as patch:
        patch.setattr(LocalStorage, "remove", change("remove", LocalStorage.remove))
        patch.setattr(Path, "unlink", change("unlink", Path.unlink))
        patch.setattr(Path, "replace", change("replace", Path.replace))
        yield done


@pytest.mark.timeout(600)
@pytest.mark.parametrize("step", [7, pytest.param(1, marks=pytest.mark.slow)])
def test_a_forget_that_dies_anywhere_is_finished_by_the_next(
    hidden: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    words = traces_of(hidden)
    before = all_volumes(hidden)
    for number in itertools.count(1, step):
        root = Path(shutil.copytree(hidden, tmp_path / str(number)))
        with dying_at(monkeypatch, number) as done:
            try:
                forget_patient(root, PATIENT, yes=True)
                died = False
            except Killed:
                died = True
        if died:
            try:
                forget_patient(root, PATIENT, yes=True)
            except InputError:  # it had died after the very last step
                assert done[-1].startswith(("unlink", "replace"))
        assert_gone(root, words, before)
        shutil.rmtree(root)
        if not died:
            break
    assert number > 40


def test_orphans_of_a_killed_run_are_forgotten_too(hidden: Path, tmp_path: Path) -> None:
    """A chunk without its record, a record that no catalogue has, torn files: all go."""
    root = copy_of(hidden, tmp_path)
    words, before = traces_of(root), all_volumes(root)
    store = root / SMALL.name
    table = Store.open(store).catalogue
    row = int(table[table["patient_id"].isin(words)]["row"].iloc[0])
    chunk = (store / f"volumes/c/{row}/0/0/0").read_bytes()
    record = (store / f"volumes/records/000000/{row:09d}.json").read_bytes()
    atomic.write_bytes(store / "volumes/c/77/0/0/0", chunk)
    atomic.write_bytes(store / "volumes/c/78/0/0/0", chunk)
    atomic.write_bytes(store / "volumes/records/000000/000000078.json", record)
    (store / "volumes/records/000000/.000000079.json.12.0123abcd.tmp").write_bytes(record)
    (root / ".freshness.parquet.12.0123abcd.tmp").write_bytes(record)
    forget_patient(root, PATIENT, yes=True)
    assert_gone(root, words, before)


def test_a_store_that_gc_removed_meanwhile_is_no_matter(
    hidden: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a look nothing is locked; the journal of an interrupted forget names it still."""
    root = copy_of(hidden, tmp_path)
    words = traces_of(root)

    def remove(*args: Any) -> list[str]:
        collect_garbage(root, stores=[OTHER.name], yes=True)
        return []

    with monkeypatch.context() as patch:
        patch.setattr("voco_data.erasure.patient._previews_of_patient_alone", remove)
        told = forget_patient(root, PATIENT)
    assert [store["store"] for store in told.stores] == [SMALL.name]
    assert told.series == 2
    shutil.rmtree(root)
    shutil.copytree(hidden, root)
    with dying_at(monkeypatch, 12), pytest.raises(Killed):
        forget_patient(root, PATIENT, yes=True)
    assert len(list((root / "private" / "forgetting").glob("*.json"))) == 1
    collect_garbage(root, stores=[OTHER.name], yes=True)
    told = forget_patient(root, PATIENT, yes=True)
    assert [store["store"] for store in told.stores] == [SMALL.name]
    assert files_that_say(root, *words) == set()


def test_what_a_training_run_removes_meanwhile_is_no_matter(
    kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = copy_of(kept, tmp_path)
    for key in ("runs/training/a.csv", "runs/training/b.parquet", "runs/training/c.txt"):
        (root / key).parent.mkdir(exist_ok=True)
        (root / key).write_text(PATIENT)
    ours = LocalStorage.list_objects

    def vanishing(self: LocalStorage, folder: str = "") -> Iterator[tuple[str, int]]:
        yield from list(ours(self, folder))
        for name in ("a.csv", "b.parquet") if not folder else ():
            (root / "runs/training" / name).unlink(missing_ok=True)

    monkeypatch.setattr(LocalStorage, "list_objects", vanishing)
    assert list(find_residue(LocalStorage(root), [PATIENT])) == ["runs/training/c.txt"]


def test_the_key_stays_and_others_map_entries_too(hidden: Path, tmp_path: Path) -> None:
    root = copy_of(hidden, tmp_path)
    key = (root / "private" / "ids.key").read_bytes()
    others = set(pseudonyms_of(root, NEIGHBOUR, THIRD))
    forget_patient(root, PATIENT, yes=True)
    assert (root / "private" / "ids.key").read_bytes() == key
    assert set(pseudonyms_of(root, NEIGHBOUR, THIRD)) == others
    assert (root / "private" / "ids.parquet").stat().st_mode & 0o777 == 0o600
    assert pseudonyms.load(LocalStorage(root)) is not None


def test_what_was_remembered_of_the_files_is_forgotten(tmp_path: Path) -> None:
    root = LocalStorage(tmp_path)
    with closing(SeenFiles(root)) as seen_files:
        seen_files.set("a", EarlierResult("1" * 32, None, ""))
        seen_files.set("b", EarlierResult("2" * 32, None, ""))
        seen_files.set("c", EarlierResult("", Reason.TOO_THIN, "covers 12.5 mm"))
        seen_files.save()
    with closing(SeenFiles(root)) as seen_files:
        seen_files.forget(["1" * 32], [(Reason.TOO_THIN, "covers 12.5 mm")])
        seen_files.save()
    assert pq.read_table(tmp_path / "freshness.parquet")["key"].to_pylist() == ["b"]
