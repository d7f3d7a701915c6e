"""Which runs use a store: noted by training, believed while the run is there."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import pytest

from tests.support.small_finetune import RECIPE, small_cohort
from tests.support.small_stores import make_store, random_volumes
from voco_data.maintenance.listing import describe_store, list_stores
from voco_data.maintenance.pins import Pin, pin_store, pins_of_store, read_pins
from voco_data.storage.local import LocalStorage
from voco_data.store.reader import Store
from voco_models.stages.finetuning import finetune
from voco_models.stages.pretraining import pretrain


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return make_store(tmp_path / "root", random_volumes(3, (2, 48, 48)))


def run_of(folder: Path, *digests: str) -> Path:
    """A run folder as training leaves it."""
    folder.mkdir(parents=True, exist_ok=True)
    stores = [{"digest": digest} for digest in digests]
    (folder / "run.json").write_text(json.dumps({"stage": "finetune", "stores": stores}))
    return folder


def only_pin(root: Path) -> Pin:
    (found,) = read_pins(LocalStorage(root))
    return found


def test_pretraining_pins_every_store(tmp_path: Path) -> None:
    stores = [
        make_store(tmp_path / name, random_volumes(3, (2, 48, 48), seed), profile=name)
        for seed, name in enumerate(("here", "there"))
    ]
    pretrain([s.path for s in stores], tmp_path / "run", recipe="tiny", max_steps=1, device="cpu")
    for made in stores:
        found = only_pin(made.path.parent)
        assert (found.run, found.stage) == (str(tmp_path / "run"), "pretrain")
        assert (found.store, found.spec_digest) == (made.path.name, made.digest)
        assert found.state == "used"


def test_fine_tuning_pins_its_store_once_however_often_it_goes_on(tmp_path: Path) -> None:
    store, labels = small_cohort(tmp_path / "root")
    for steps, resume in ((1, False), (2, True)):
        finetune(
            store,
            labels,
            tmp_path / "run",
            recipe=RECIPE,
            device="cpu",
            max_steps=steps,
            resume=resume,
        )
    assert (only_pin(tmp_path / "root").stage, only_pin(tmp_path / "root").state) == (
        "finetune",
        "used",
    )


def test_a_root_that_cannot_be_written_is_a_warning(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(self: LocalStorage, key: str, data: bytes) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(LocalStorage, "write", refuse)
    with caplog.at_level(logging.WARNING):
        pin_store(store, tmp_path / "run", "pretrain")
    assert "Read-only file system" in caplog.text
    assert read_pins(LocalStorage(tmp_path / "root")) == []


def test_a_pin_counts_while_its_run_names_the_spec(store: Store, tmp_path: Path) -> None:
    run = run_of(tmp_path / "runs" / "a", store.digest)
    pin_store(store, run, "finetune")
    found = only_pin(tmp_path / "root")
    assert found.state == "used"
    run_of(run, "0123456789ab")  # the folder was given to another experiment
    assert found.state == "gone"
    shutil.rmtree(run)
    assert found.state == "gone"
    assert pins_of_store([found], store.path.name) == []
    shutil.rmtree(run.parent)  # not mounted, as far as we can see
    assert found.state == "elsewhere"
    assert pins_of_store([found], store.path.name) == [found]


def test_a_run_of_another_machine_is_believed(store: Store, tmp_path: Path) -> None:
    pin_store(store, tmp_path / "run", "pretrain")
    file = next((tmp_path / "root" / "pins").iterdir())
    file.write_text(json.dumps(json.loads(file.read_text()) | {"machine": "gpu-7"}))
    assert only_pin(tmp_path / "root").state == "elsewhere"


def test_what_is_no_pin_is_named_and_ignored(
    store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "root" / "pins"
    folder.mkdir()
    (folder / "odd.json").write_text("{")
    with caplog.at_level(logging.WARNING):
        assert read_pins(LocalStorage(tmp_path / "root")) == []
    assert "odd.json" in caplog.text


def test_a_listing_says_who_uses_what(store: Store, tmp_path: Path) -> None:
    other = make_store(tmp_path / "root", random_volumes(2, (2, 8, 8)), profile="other")
    pin_store(store, run_of(tmp_path / "runs" / "a", store.digest), "finetune")
    rows = {row["name"]: row for row in list_stores(tmp_path / "root")["stores"]}
    assert [rows[s.path.name]["runs"] for s in (store, other)] == [1, 0]
    row = rows[other.path.name]
    assert (row["profile"], row["grid"], row["series"], row["patients"]) == (
        "other",
        [2, 8, 8],
        2,
        2,
    )
    on_disk = sum(f.stat().st_size for f in other.path.rglob("*") if f.is_file())
    assert row["bytes"] == on_disk > row["volume_bytes"] == 2 * 2 * 8 * 8
    assert row["current"] is True
    told = describe_store(store.path)
    assert [user["run"] for user in told["used_by"]] == [str(tmp_path / "runs" / "a")]
    assert told["layouts"] == {"made up": 3}
    assert told["created"] <= told["last_written"]


def test_a_store_that_does_not_open_hides_no_other(store: Store, tmp_path: Path) -> None:
    broken = make_store(tmp_path / "root", random_volumes(1, (2, 8, 8)), profile="other")
    metadata = json.loads((broken.path / "zarr.json").read_text())
    metadata["attributes"]["voco"]["format"] = 99
    (broken.path / "zarr.json").write_text(json.dumps(metadata))
    found = list_stores(tmp_path / "root")
    assert [row["name"] for row in found["stores"]] == [store.path.name]
    (problem,) = found["problems"]
    assert "format 99" in problem
    assert broken.path.name in problem
