"""Torn and damaged tables beside the stores: made anew, skipped, or one line with the name."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from tests.support.ct_files import body, write_slices
from voco_data.deidentification import pseudonyms
from voco_data.erasure.patient import forget_patient
from voco_data.errors import InputError, StoreCorrupt
from voco_data.ingest.run import PreprocessSummary, preprocess
from voco_data.maintenance.garbage import collect_garbage
from voco_data.maintenance.verification import verify_store
from voco_data.qc import ledger
from voco_data.storage.local import LocalStorage
from voco_data.storage.parquet import read_frame
from voco_data.store.reader import Store
from voco_data.store.spec import StoreSpec

SMALL = StoreSpec(profile="small", grid=(6, 24, 24))
PATIENTS = ("anna-4711", "bert-4712")


def half(data: bytes) -> bytes:
    return data[: len(data) // 2]


def empty(data: bytes) -> bytes:
    del data
    return b""


def pages(data: bytes) -> bytes:
    """Flip bytes in all columns, and leave the footer as it is."""
    damaged = bytearray(data)
    for place in range(8, len(data) // 2, 20):
        damaged[place] ^= 0xA5
    return bytes(damaged)


def footer(data: bytes) -> bytes:
    damaged = bytearray(data)
    for place in range(len(data) - 200, len(data) - 150):
        damaged[place] ^= 0xA5
    return bytes(damaged)


DAMAGES = pytest.mark.parametrize("damage", [half, empty, pages, footer])


def fill(archive: Path, root: Path) -> PreprocessSummary:
    specs = root.with_name("specs.json")
    specs.write_text(f"[{SMALL.canonical_json()}]")
    return preprocess(archive, root, spec_file=specs, workers=1)


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an archive of two patients and the stores of one run over it."""
    folder = tmp_path_factory.mktemp("filled")
    for seed, patient in enumerate(PATIENTS):
        write_slices(folder / "archive" / patient, body(seed=seed), tags={"PatientID": patient})
    fill(folder / "archive", folder / "root")
    return folder


@pytest.fixture
def root(filled: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(filled / "root", tmp_path / "root"))


def map_of(root: Path) -> set[tuple[str, str, str]]:
    return set(pseudonyms.read_map(LocalStorage(root)))


@DAMAGES
def test_a_damaged_map_of_pseudonyms_is_made_anew(
    filled: Path, root: Path, damage: Callable[[bytes], bytes], caplog: pytest.LogCaptureFixture
) -> None:
    path, expected = root / "private" / "ids.parquet", map_of(root)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(StoreCorrupt, match=r"ids\.parquet: the map of the pseudonyms cannot be"):
        forget_patient(root, PATIENTS[0], yes=True)
    assert fill(filled / "archive", root).cached == 2
    assert "the old one is now ids.damaged.parquet" in caplog.text
    assert map_of(root) == expected
    assert (path.stat().st_mode & 0o777) == 0o600
    assert forget_patient(root, PATIENTS[0], yes=True).series == 1
    assert not path.with_name("ids.damaged.parquet").exists()


@DAMAGES
def test_a_damaged_ledger_stops_neither_gc_nor_the_erasure_of_a_patient(
    filled: Path, root: Path, damage: Callable[[bytes], bytes], caplog: pytest.LogCaptureFixture
) -> None:
    (path,) = root.glob("runs/*/ledger.parquet")
    path.write_bytes(damage(path.read_bytes()))
    previews = sorted(root.rglob("previews/**/*.jpg"))
    assert len(previews) == 2
    collect_garbage(root, yes=True)
    assert sorted(root.rglob("previews/**/*.jpg")) == previews
    assert "no preview is removed" in caplog.text
    told = forget_patient(root, PATIENTS[0], yes=True)
    assert told.series == 1
    assert [entry["rows"] for entry in told.ledgers] == [0]
    assert not path.exists()  # it may have named her
    (store,) = root.glob("*.zarr")
    assert len(Store.open(store).catalogue) == 1
    assert fill(filled / "archive" / PATIENTS[1], root).series == 1


def test_any_damage_of_a_table_of_a_run_is_one_line(tmp_path: Path) -> None:
    """Also where Arrow or pandas raise something else than an OSError or a ValueError."""
    path = tmp_path / "labels.parquet"
    table = pd.DataFrame({"patient_id": [f"p{n}" for n in range(50)], "liver": range(50)})
    table.to_parquet(path, index=False)
    data, draw = path.read_bytes(), random.Random(7)
    errors: list[str] = []
    for _ in range(400):
        damaged = bytearray(data[: draw.randrange(len(data) + 1)] if draw.random() < 0.2 else data)
        for _ in range(draw.randrange(1, 9)):
            if damaged:
                damaged[draw.randrange(len(damaged))] = draw.randrange(256)
        path.write_bytes(damaged)
        try:
            read_frame(path, "the labels of a run")
        except InputError as error:
            errors.append(str(error))
    assert len(errors) > 100
    assert all(e.startswith(f"{path}: expected the labels of a run, cannot") for e in errors)
    assert not any("\n" in error for error in errors)
    with pytest.raises(InputError, match="no such file"):
        read_frame(tmp_path / "nothing.parquet", "the labels of a run")


@pytest.mark.parametrize("damage", [half, empty, None])
def test_a_lost_or_torn_preview_is_named_and_made_again(
    filled: Path, root: Path, damage: Callable[[bytes], bytes] | None
) -> None:
    """Without another change: no volume is stored again."""
    (store,) = root.glob("*.zarr")
    assert verify_store(store).problems == ()
    expected = {path: path.read_bytes() for path in root.rglob("previews/*/*.jpg")}
    lost = sorted(expected)[0]
    if damage is None:
        lost.unlink()
    else:
        lost.write_bytes(damage(lost.read_bytes()))
    (problem,) = verify_store(store).problems
    assert problem.endswith("its preview is lost or torn; voco preprocess --deep makes it again")
    specs = root.with_name("specs.json")
    specs.write_text(f"[{SMALL.canonical_json()}]")
    done = preprocess(filled / "archive", root, spec_file=specs, workers=1, deep=True)
    assert (done.stored, done.cached) == (0, 2)
    assert {path: path.read_bytes() for path in root.rglob("previews/*/*.jpg")} == expected
    assert verify_store(store).problems == ()


@DAMAGES
def test_a_damaged_ledger_is_left_out_of_what_looks_at_all(
    root: Path, damage: Callable[[bytes], bytes], caplog: pytest.LogCaptureFixture
) -> None:
    (path,) = root.glob("runs/*/ledger.parquet")
    run = LocalStorage(path.parent)
    assert len(list(ledger.read_rows(run, ["kind", "status"]))) >= 2
    path.write_bytes(damage(path.read_bytes()))
    assert list(ledger.read_rows(run, ["kind", "status"])) == []
    assert "it is left out" in caplog.text
