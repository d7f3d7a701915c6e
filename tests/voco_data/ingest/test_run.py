"""The preprocess stage end to end on small archives: what is stored, cached, refused, hidden."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import zarr

from tests.support.ct_files import body, write_slices
from tests.support.headers import indexed
from voco_data.deidentification import pseudonyms
from voco_data.errors import InputError, StoreBusy
from voco_data.ingest.run import PreprocessSummary, preprocess
from voco_data.storage.local import LocalStorage
from voco_data.store.reader import Store
from voco_data.store.spec import PROFILES, StoreSpec
from voco_data.store.writer import open_for_writing

SMALL = StoreSpec(profile="small", grid=(6, 24, 24))
OTHER = StoreSpec(profile="other", grid=(4, 16, 16))


@dataclass
class Bench:
    """An archive, a root, and a spec file with two small grids."""

    archive: Path
    root: Path
    specs: Path

    def run(self, **options: object) -> PreprocessSummary:
        return preprocess(
            self.archive,
            self.root,
            **{"spec_file": self.specs, "workers": 1, **options},  # type: ignore[arg-type]
        )

    def ledger(self, summary: PreprocessSummary) -> pd.DataFrame:
        return pd.read_parquet(summary.ledger)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    archive = tmp_path / "archive"
    write_slices(archive / "a", body(seed=1), tags={"PatientID": "one"})
    write_slices(archive / "b" / "deep", body(seed=2), rle=True, tags={"PatientID": "two"})
    specs = tmp_path / "specs.json"
    specs.write_text(f"[{SMALL.canonical_json()}, {OTHER.canonical_json()}]")
    return Bench(archive, tmp_path / "root", specs)


def counts(summary: PreprocessSummary) -> tuple[int, int, int]:
    return (summary.stored, summary.cached, summary.refused)


def snapshot(root: Path) -> dict[str, bytes]:
    """Every chunk and record under a root."""
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and ("/volumes/c/" in str(path) or "/records/" in str(path))
    }


def test_both_grids_of_every_series_and_then_nothing_to_do(bench: Bench) -> None:
    first = bench.run()
    assert counts(first) == (2, 0, 0)
    before = snapshot(bench.root)
    stores = {name: Store.open(path) for name, path in first.stores.items()}
    assert {store.grid for store in stores.values()} == {(6, 24, 24), (4, 16, 16)}
    assert [len(store) for store in stores.values()] == [2, 2]
    again = bench.run()
    assert counts(again) == (0, 2, 0)
    assert snapshot(bench.root) == before


def test_the_stored_volume_is_upright_with_right_on_the_left(bench: Bench) -> None:
    path = bench.run().stores["small"]
    volume = Store.open(path).read(0).astype(int)
    middle = volume[3]
    # ct_files.body: bright bar on the patient's left (high x), dark one in front (low y).
    assert middle[12, 17] > middle[12, 6] + 60
    assert middle[4, 12] < middle[18, 12] - 60


def test_the_ledger_has_a_row_a_series_and_a_row_an_odd_file(bench: Bench) -> None:
    (bench.archive / "notes.txt").write_text("hello")
    write_slices(bench.archive / "short", body()[:4], tags={"PatientID": "three"})
    write_slices(bench.archive / "mr", body()[:1], tags={"Modality": "MR"})
    summary = bench.run(keep_ids=True)
    table = bench.ledger(summary).set_index("source")
    assert summary.series == 3
    assert counts(summary) == (2, 0, 1)
    assert table.loc["a", "status"] == "stored"
    assert table.loc["a", "patient_id"] == "one"
    assert table.loc["a", "n_slices"] == 24
    assert table.loc["a", "spacing_z_mm"] == 5.0
    assert table.loc["a", "z_low_mm"] == pytest.approx(-102.5)
    assert table.loc["a", "z_high_mm"] == pytest.approx(17.5)
    assert table.loc["short", "reason"] == "too_few_slices"
    assert table.loc["notes.txt", "reason"] == "not_medical"
    assert table.loc["mr/0000.dcm", "reason"] == "not_ct"
    assert table.loc["mr/0000.dcm", "kind"] == "file"
    page = Path(summary.report).read_text()
    assert "too_few_slices" in page
    assert "default-src 'none'" in page
    assert page.count("data:image/jpeg") == 2
    assert "http" not in page.replace("http-equiv", "")


def test_a_refused_series_is_remembered_until_it_changes(bench: Bench) -> None:
    paths = write_slices(bench.archive / "gap", body(seed=5), tags={"PatientID": "x"})
    hidden = paths[7].rename(bench.root.parent / "aside.dcm")
    assert counts(bench.run()) == (2, 0, 1)
    assert counts(bench.run()) == (0, 2, 1)
    hidden.rename(paths[7])
    assert counts(bench.run()) == (1, 2, 0)


def test_new_series_cost_only_themselves(bench: Bench) -> None:
    bench.run()
    before = snapshot(bench.root)
    write_slices(bench.archive / "c", body(seed=3), tags={"PatientID": "three"})
    assert counts(bench.run()) == (1, 2, 0)
    after = snapshot(bench.root)
    assert {name: after[name] for name in before} == before
    assert len(after) == len(before) + 4


def test_a_new_spec_takes_what_it_misses_and_leaves_the_other(bench: Bench) -> None:
    bench.specs.write_text(SMALL.canonical_json())
    bench.run()
    before = snapshot(bench.root)
    bench.specs.write_text(f"[{SMALL.canonical_json()}, {OTHER.canonical_json()}]")
    summary = bench.run()
    assert counts(summary) == (2, 0, 0)
    assert len(Store.open(summary.stores["other"])) == 2
    assert {name: data for name, data in snapshot(bench.root).items() if name in before} == before


def test_a_moved_archive_still_hits(bench: Bench) -> None:
    bench.run()
    before = snapshot(bench.root)
    moved = bench.archive.rename(bench.archive.with_name("elsewhere"))
    (moved / "a").rename(moved / "renamed")
    bench.archive = moved
    assert counts(bench.run()) == (0, 2, 0)
    assert snapshot(bench.root) == before


def test_deep_reads_again_and_changes_nothing(bench: Bench) -> None:
    bench.run()
    before = snapshot(bench.root)
    assert counts(bench.run(deep=True)) == (0, 2, 0)
    assert snapshot(bench.root) == before


def test_a_file_changed_in_place_is_noticed(bench: Bench) -> None:
    store = Store.open(bench.run().stores["small"])
    old = {row: store.read(row).copy() for row in store.catalogue["row"]}
    write_slices(bench.archive / "a", body(seed=9), tags={"PatientID": "one"})
    summary = bench.run()
    assert counts(summary) == (1, 1, 0)
    store = Store.open(summary.stores["small"])
    assert len(store) == 2
    fresh = [store.read(row) for row in store.catalogue["row"]]
    unchanged = [any(np.array_equal(f, o) for o in old.values()) for f in fresh]
    assert sorted(unchanged) == [False, True]


def test_equal_pixels_of_two_patients_are_two_rows_in_any_order(bench: Bench) -> None:
    write_slices(bench.archive / "c", body(seed=1), tags={"PatientID": "twin"})
    assert counts(bench.run()) == (3, 0, 0)
    one_by_one = bench.root.with_name("second")
    for include in (["b/*"], ["[bc]/*"], ["*"]):
        preprocess(bench.archive, one_by_one, spec_file=bench.specs, workers=1, include=include)
    for name in ("small", "other"):
        spec = {"small": SMALL, "other": OTHER}[name]
        assert len(Store.open(one_by_one / spec.name)) == 3


def test_duplicate_volumes_are_marked_with_the_first_of_them(bench: Bench) -> None:
    write_slices(
        bench.archive / "c", body(seed=1), tags={"PatientID": "twin", "SeriesInstanceUID": "9.9"}
    )
    write_slices(
        bench.archive / "d", body(seed=1), tags={"PatientID": "third", "SeriesInstanceUID": "9.8"}
    )
    first = bench.run(keep_ids=True)
    assert counts(first) == (4, 0, 0)
    table = bench.ledger(first).set_index("patient_id")
    original = table.loc["one", "series_uid"]
    assert original < "9.8"
    assert table["duplicate_of"].to_dict() == {
        "one": "",
        "two": "",
        "twin": original,
        "third": original,
    }
    assert table.loc["twin", "flags"] == "duplicate"
    assert table.loc["one", "flags"] == ""
    columns = ["source", "flags", "duplicate_of"]
    for options in ({}, {"deep": True}, {"include": ["[bcd]/*"]}):
        again = bench.ledger(bench.run(keep_ids=True, **options))[columns]
        before = bench.ledger(first)[columns]
        expected = before[before["source"].isin(again["source"])].reset_index(drop=True)
        pd.testing.assert_frame_equal(again, expected)


def test_a_copy_in_another_archive_is_marked_and_a_moved_archive_is_not(bench: Bench) -> None:
    bench.run(keep_ids=True)
    bench.archive = bench.archive.rename(bench.archive.with_name("moved"))
    (bench.archive / "a").rename(bench.archive / "elsewhere")
    assert set(bench.ledger(bench.run(keep_ids=True))["duplicate_of"]) == {""}
    bench.archive = bench.archive.with_name("second")
    write_slices(bench.archive, body(seed=1), tags={"PatientID": "z", "SeriesInstanceUID": "9"})
    summary = bench.run(keep_ids=True)
    assert counts(summary) == (1, 0, 0)
    stored = Store.open(summary.stores["small"]).catalogue.set_index("patient_id")
    (row,) = bench.ledger(summary).to_dict("records")
    assert row["duplicate_of"] == stored.loc["one", "series_uid"]


def test_a_mask_that_comes_later_is_a_new_read_of_its_series_only(bench: Bench) -> None:
    bench.run()
    before = {
        r["stat_digest"] for r in Store.open(bench.root / SMALL.name).catalogue.to_dict("records")
    }
    (bench.archive / "a" / "liver_mask.nii.gz").write_bytes(b"")
    digests = {entry.source: entry.stat_digest for entry in indexed(bench.archive)[0]}
    assert (digests["a"] in before, digests["b/deep"] in before) == (False, True)
    summary = bench.run()
    assert counts(summary) == (0, 2, 0)
    assert bench.ledger(summary).query("kind == 'file'")["reason"].tolist() == ["mask"]


def test_two_stacks_under_one_uid_are_two_volumes(bench: Bench) -> None:
    shutil.rmtree(bench.archive)
    for acquisition in (1, 2):
        write_slices(
            bench.archive,
            body(seed=acquisition),
            names=[f"{k}-{acquisition}" for k in range(24)],
            tags={"AcquisitionNumber": acquisition, "SeriesInstanceUID": "1.5"},
        )
    summary = bench.run(keep_ids=True)
    assert counts(summary) == (2, 0, 0)
    names = bench.ledger(summary)["series_uid"].tolist()
    assert len(set(names)) == 2
    assert all(name.startswith("1.5#") for name in names)
    assert counts(bench.run(keep_ids=True)) == (0, 2, 0)


@pytest.mark.parametrize("keep_ids", [True, False])
def test_names_that_are_no_text_and_a_table_that_still_reads(bench: Bench, keep_ids: bool) -> None:
    odd = os.fsdecode(b"\xff\nodd")
    (bench.archive / "a").rename(bench.archive / odd)
    (bench.archive / f"{odd}.txt").write_text("")
    summary = bench.run(keep_ids=keep_ids)
    assert counts(summary) == (2, 0, 0)
    table = bench.ledger(summary)
    assert len(table) == 3
    assert table["n_slices"].dtype == "Int64"
    assert ("\\udcff\nodd" in set(table["source"])) == keep_ids
    assert counts(bench.run(keep_ids=keep_ids)) == (0, 2, 0)
    assert len(Store.open(summary.stores["small"]).catalogue) == 2


def test_processes_and_one_thread_make_the_same_store(bench: Bench) -> None:
    for index in range(8):
        write_slices(bench.archive / f"m{index}", body(seed=20 + index))
    bench.run(keep_ids=True)
    other = bench.root.with_name("parallel")
    preprocess(bench.archive, other, spec_file=bench.specs, workers=2, keep_ids=True)
    assert snapshot(other) == snapshot(bench.root)


def test_a_script_without_a_guard_runs_once(bench: Bench, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from voco_data.ingest.run import preprocess\n"
        "print('once')\n"
        f"found = preprocess({str(bench.archive)!r}, {str(bench.root)!r}, "
        f"spec_file={str(bench.specs)!r}, workers=2)\n"
        "print(found.stored)\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["once", "2"]


@pytest.mark.slow  # in the fast set, test_kill_dask.py compares with a Dask cluster
def test_dask_local_makes_the_same_store(bench: Bench) -> None:
    bench.run(keep_ids=True)
    other = bench.root.with_name("dask")
    preprocess(bench.archive, other, spec_file=bench.specs, workers=1, dask="local", keep_ids=True)
    assert snapshot(other) == snapshot(bench.root)


def test_no_scheduler_is_one_line(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("voco_data.executors.dask.CONNECT_TIMEOUT_S", 1.0)
    with pytest.raises(InputError, match="no scheduler answers"):
        bench.run(dask="tcp://127.0.0.1:1")


def test_ids_become_pseudonyms_and_labels_still_join(bench: Bench) -> None:
    summary = bench.run()
    names = set(bench.ledger(summary)["patient_id"])
    assert not names & {"one", "two"}
    key = pseudonyms.load(LocalStorage(bench.root))
    assert key is not None
    assert names == {key("patient", "one"), key("patient", "two")}
    path = bench.root / "private" / "ids.key"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE((bench.root / "private" / "ids.parquet").stat().st_mode) == 0o600
    assert stat.S_IMODE((bench.root / "private").stat().st_mode) == 0o700
    private = pd.read_parquet(bench.root / "private" / "ids.parquet")
    assert set(private.query("kind == 'patient'")["original"]) == {"one", "two"}


def test_no_name_leaves_the_private_folder(bench: Bench) -> None:
    secrets = ("Doe", "Jane", "patient-7", "b/deep", str(bench.archive))
    write_slices(bench.archive / "p7", body(seed=4))  # PatientID patient-7
    assert bench.run().stored == 3
    for path in bench.root.rglob("*"):
        if path.is_file() and "private" not in path.parts:
            data = path.read_bytes()
            for secret in secrets:
                assert secret.encode() not in data, (path, secret)


def test_public_layouts_keep_their_ids(tmp_path: Path, bench: Bench) -> None:
    for patient, series in ((10004, 21057), (10005, 18667)):
        folder = tmp_path / "ratic" / "train_images" / str(patient) / str(series)
        names = [f"{index + 31}.dcm" for index in range(24)]
        tags = {"Modality": None, "InstanceNumber": lambda i: i + 31}
        write_slices(folder, body(seed=patient), rle=True, names=names, tags=tags)
    (tmp_path / "ratic" / "train_series_meta.csv").write_text("patient_id,series_id\n")
    (tmp_path / "ratic" / "train.csv").write_text("patient_id\n")
    bench.archive = tmp_path / "ratic"
    summary = bench.run()
    assert summary.layout == "ratic"
    assert counts(summary) == (2, 0, 0)
    table = Store.open(summary.stores["small"]).catalogue.set_index("patient_id")
    assert table.loc["10004", "series_uid"] == "21057"
    assert table.loc["10004", "source"] == "train_images/10004/21057"
    assert table.loc["10004", "instance_numbers"][0] == 31
    assert not (bench.root / "private").exists()


def test_links_out_of_the_archive_are_not_followed(bench: Bench, tmp_path: Path) -> None:
    write_slices(tmp_path / "outside", body(seed=7), tags={"PatientID": "secret"})
    (bench.archive / "link").symlink_to(tmp_path / "outside")
    (bench.archive / "file.dcm").symlink_to(tmp_path / "outside" / "0000.dcm")
    assert bench.run().series == 2


def test_include_and_exclude_are_globs_over_paths(bench: Bench) -> None:
    assert bench.run(include=["a/*"]).series == 1
    assert bench.run(exclude=["a/*", "*.txt"]).series == 1
    with pytest.raises(InputError, match="filters"):
        bench.run(include=["nothing/*"])


@pytest.fixture
def untouched(bench: Bench) -> Iterator[None]:
    yield
    assert not bench.root.exists(), "bad input wrote something"


@pytest.mark.usefixtures("untouched")
def test_bad_input_is_one_line_and_writes_nothing(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    cases: list[tuple[Path, dict[str, object], str]] = [
        (tmp_path / "missing", {}, "no such file or folder"),
        (tmp_path / "empty", {}, "holds no files"),
        (bench.archive, {"layout": "ratic"}, "expected RATIC"),
        (bench.archive, {"layout": "flare"}, "expected FLARE23"),
        (bench.archive, {"layout": "mri"}, "layout must be"),
        (bench.archive, {"spec_file": None, "specs": ["huge"]}, "spec must be one of"),
        (bench.archive, {"spec_file": tmp_path / "none.json"}, "cannot be read"),
    ]
    for source, options, message in cases:
        bench.archive = source
        with pytest.raises(InputError, match=message) as caught:
            bench.run(**options)
        assert "\n" not in str(caught.value)


def test_an_unwritable_root_is_one_line(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    bench.root = tmp_path / "file" / "root"
    with pytest.raises(InputError, match="cannot be written"):
        bench.run()
    bench.root = Path("/proc/voco")  # not writable even for root
    with pytest.raises(InputError, match="cannot be written"):
        bench.run()


def test_a_busy_store_is_one_line(bench: Bench) -> None:
    bench.root.mkdir()
    with (
        open_for_writing(LocalStorage(bench.root), SMALL),
        pytest.raises(StoreBusy, match="another run"),
    ):
        bench.run()


def test_a_store_whose_spec_was_edited_is_not_filled(bench: Bench) -> None:
    path = Path(bench.run().stores["small"])
    metadata = json.loads((path / "zarr.json").read_text())
    metadata["attributes"]["voco"]["spec"]["window_width_hu"] = 100.0
    (path / "zarr.json").write_text(json.dumps(metadata))
    with pytest.raises(InputError, match="edited"):
        bench.run()


def test_one_nifti_file_is_an_archive(bench: Bench, tmp_path: Path) -> None:
    import nibabel

    image = nibabel.Nifti1Image(body().transpose(2, 1, 0), np.diag([-2.0, -2.0, 5.0, 1.0]))
    nibabel.save(image, tmp_path / "scan.nii.gz")
    bench.archive = tmp_path / "scan.nii.gz"
    summary = bench.run(keep_ids=True)
    assert counts(summary) == (1, 0, 0)
    assert Store.open(summary.stores["small"]).catalogue["patient_id"].tolist() == ["scan"]


def test_empty_uids_are_grouped_by_folder_and_geometry(bench: Bench) -> None:
    shutil.rmtree(bench.archive)
    blank = {"SeriesInstanceUID": "", "StudyInstanceUID": "", "PatientID": ""}
    write_slices(bench.archive / "p", body(seed=1), tags=blank)
    write_slices(bench.archive / "q", body(seed=2), tags=blank)
    summary = bench.run()
    assert counts(summary) == (2, 0, 0)
    assert bench.ledger(summary)["patient_id"].nunique() == 2


def test_one_series_over_two_folders_is_one_series(bench: Bench) -> None:
    shutil.rmtree(bench.archive)
    paths = write_slices(bench.archive / "p" / "1", body(seed=1))
    (bench.archive / "p" / "2").mkdir()
    for path in paths[::2]:
        path.rename(bench.archive / "p" / "2" / path.name)
    summary = bench.run(keep_ids=True)
    assert counts(summary) == (1, 0, 0)
    assert bench.ledger(summary)["source"].tolist() == ["p"]


@pytest.mark.real_ct
def test_a_real_series_lands_on_both_grids(real_ct: Path, tmp_path: Path) -> None:
    source = real_ct / "01_tcga_coad_siemens_abdpelvis"
    summary = preprocess(source, tmp_path / "root")
    assert counts(summary) == (1, 0, 0)
    assert list(summary.stores) == ["pretrain", "finetune"]
    for profile, path in summary.stores.items():
        spec = PROFILES[profile]
        array = zarr.open_group(path, mode="r")["volumes"]
        assert array.shape == (1, *spec.grid)
        volume = np.asarray(array[0], float)
        # Spine and couch side are at high y: bone behind the middle, none in front.
        middle = volume[spec.grid[0] // 2]
        half = spec.grid[1] // 2
        assert (middle[half:] > 250).sum() > 3 * (middle[:half] > 250).sum()
        # The liver, in the upper third, is on the patient's right: the image's left.
        upper = volume[int(0.8 * spec.grid[0])]
        assert upper[:, : spec.grid[2] // 2].mean() > upper[:, spec.grid[2] // 2 :].mean()


def test_a_night_without_anything_new_leaves_no_file(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    """With `skip_unchanged`; the summary then names the ledger of the last run."""
    first = bench.run(skip_unchanged=True)
    assert not first.unchanged
    before = sorted(bench.root.rglob("*"))
    with caplog.at_level("INFO", logger="voco_data.ingest"):
        night = bench.run(skip_unchanged=True)
    assert (night.unchanged, counts(night)) == (True, (0, first.stored, first.refused))
    assert (night.ledger, night.report) == (first.ledger, first.report)
    assert sorted(bench.root.rglob("*")) == before
    told = [message for message in caplog.messages if "nothing has changed" in message]
    assert told == [f"nothing has changed since {Path(first.ledger).parent}; no report was written"]
    assert bench.run().ledger != first.ledger  # without the option, each run has its own


def test_what_is_new_is_reported_also_if_it_is_refused(bench: Bench) -> None:
    first = bench.run(skip_unchanged=True)
    write_slices(bench.archive / "few", body(seed=3)[:4], tags={"PatientID": "three"})
    refused = bench.run(skip_unchanged=True)
    assert not refused.unchanged
    assert refused.refused == first.refused + 1
    assert bench.run(skip_unchanged=True).ledger == refused.ledger
    shutil.rmtree(bench.archive / "few")
    gone = bench.run(skip_unchanged=True)
    assert gone.ledger not in (first.ledger, refused.ledger)


def test_another_archive_or_another_spec_is_another_ledger(bench: Bench, tmp_path: Path) -> None:
    both = bench.run(skip_unchanged=True)
    one = tmp_path / "one.json"
    one.write_text(f"[{SMALL.canonical_json()}]")
    assert not bench.run(skip_unchanged=True, spec_file=one).unchanged
    assert bench.run(skip_unchanged=True, spec_file=one).unchanged
    again = bench.run(skip_unchanged=True)
    assert (again.unchanged, again.ledger) == (True, both.ledger)
    write_slices(tmp_path / "other" / "c", body(seed=4), tags={"PatientID": "four"})
    other = replace(bench, archive=tmp_path / "other")
    assert not other.run(skip_unchanged=True).unchanged
    assert other.run(skip_unchanged=True).unchanged
    assert bench.run(skip_unchanged=True).ledger == both.ledger
