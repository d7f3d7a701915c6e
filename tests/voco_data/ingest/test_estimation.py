"""What a run would take: exact bytes, counts that the run then has, and nothing written."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flows.command import main
from tests.support.ct_files import body, write_slices
from voco_data.errors import InputError, VocoError
from voco_data.ingest.disk_space import check_disk_space, needed_bytes
from voco_data.ingest.estimation import estimate, extrapolate_seconds
from voco_data.ingest.run import preprocess
from voco_data.storage.local import LocalStorage
from voco_data.store.spec import StoreSpec

SMALL = StoreSpec(profile="small", grid=(6, 24, 24))
OTHER = StoreSpec(profile="other", grid=(4, 16, 16))


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    for number in range(4):
        tags = {"PatientID": f"patient-{number}"}
        write_slices(tmp_path / "archive" / str(number), body(seed=number), tags=tags)
    write_slices(tmp_path / "archive" / "short", body()[:4], tags={"PatientID": "five"})
    return tmp_path / "archive"


@pytest.fixture
def specs(tmp_path: Path) -> Path:
    path = tmp_path / "specs.json"
    path.write_text(f"[{SMALL.canonical_json()}, {OTHER.canonical_json()}]")
    return path


def state(root: Path) -> dict[str, tuple[int, int]]:
    return {
        str(p.relative_to(root)): (p.stat().st_size, p.stat().st_mtime_ns) for p in root.rglob("*")
    }


def chunk_bytes(root: Path, spec: StoreSpec) -> int:
    return sum(f.stat().st_size for f in (root / spec.name).glob("volumes/c/*/0/0/0"))


def test_bytes_are_those_of_the_run_and_nothing_is_written(
    archive: Path, specs: Path, tmp_path: Path
) -> None:
    shutil.rmtree(archive / "short")
    root = tmp_path / "deep" / "root"
    told = estimate(archive, root, spec_file=specs, workers=1)
    assert not root.parent.exists()
    assert (told.series, told.to_do, told.cached, told.probed) == (4, 4, 0, 4)
    assert told.seconds is not None
    assert told.seconds_range is not None
    assert 0 < told.seconds_range[0] <= told.seconds <= told.seconds_range[1]
    assert told.free_bytes is not None
    preprocess(archive, root, spec_file=specs, workers=1)
    assert told.bytes == {
        "small": chunk_bytes(root, SMALL),
        "other": chunk_bytes(root, OTHER),
    }
    before = state(root)
    again = estimate(archive, root, spec_file=specs, workers=1)
    assert state(root) == before
    assert (again.to_do, again.cached, again.bytes) == (0, 4, {"small": 0, "other": 0})
    assert (again.seconds, again.needed_bytes, again.enough_room) == (None, 0, True)


@pytest.mark.parametrize("harm", ["damaged", "lost"])
def test_a_catalogue_that_is_lost_is_no_loss(
    archive: Path, specs: Path, tmp_path: Path, harm: str
) -> None:
    root = tmp_path / "root"
    preprocess(archive, root, spec_file=specs, workers=1)
    told = estimate(archive, root, spec_file=specs, workers=1)
    for path in root.glob("*.zarr/volumes/catalogue.parquet"):
        path.write_bytes(b"PAR1") if harm == "damaged" else path.unlink()
    again = estimate(archive, root, spec_file=specs, workers=1)
    assert replace(again, free_bytes=told.free_bytes) == told
    assert (told.cached, told.refused) == (4, 1)


def test_only_what_is_missing_counts(archive: Path, specs: Path, tmp_path: Path) -> None:
    root, first = tmp_path / "root", tmp_path / "first.json"
    first.write_text(SMALL.canonical_json())
    preprocess(archive, root, spec_file=first, workers=1)
    told = estimate(archive, root, spec_file=specs, workers=1)
    # One series is refused under the rules that both specs share: it is not read again.
    assert (told.series, told.to_do, told.cached, told.refused) == (5, 4, 0, 1)
    assert told.bytes == {"small": 0, "other": 4 * 4 * 16 * 16}
    write_slices(archive / "new", body(seed=9), tags={"PatientID": "new"})
    told = estimate(archive, root, spec_file=first, workers=1)
    assert (told.series, told.to_do, told.cached, told.refused) == (6, 1, 4, 1)
    assert told.bytes == {"small": 6 * 24 * 24}


def test_a_moved_archive_is_read_again_and_takes_no_room(
    archive: Path, specs: Path, tmp_path: Path
) -> None:
    preprocess(archive, tmp_path / "root", spec_file=specs, workers=1)
    archive.rename(tmp_path / "moved")
    (tmp_path / "moved" / "0").rename(tmp_path / "moved" / "zero")
    told = estimate(tmp_path / "moved", tmp_path / "root", spec_file=specs, workers=1)
    assert told.to_do >= 1
    assert told.bytes == {"small": 0, "other": 0}


def test_the_command_prints_one_object(
    archive: Path, specs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["preprocess", str(archive), "--root", str(tmp_path / "r"), "--spec-file", str(specs)]
    assert main([*words, "--estimate", "--workers", "1", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert {"series", "to_do", "cached", "bytes", "free_bytes", "seconds"} <= set(told)
    assert len(told["seconds_range"]) == 2
    assert main([*words, "--estimate", "--dask", "local"]) == 2
    assert main(["preprocess", str(tmp_path / "no"), "--root", "r", "--estimate"]) == 2
    assert not (tmp_path / "r").exists()


def test_bad_specs_are_bad_input_here_too(archive: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="spec must be one of"):
        estimate(archive, tmp_path / "root", specs=("nothing",))


def test_time_is_the_pace_of_the_probe() -> None:
    # Two workers: started after 3 s, then a series a second.
    done = [2.9, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0]
    assert extrapolate_seconds(done, 2, 102) == (103.0, (103.0, 103.0))
    # The last third was twice as slow.
    slower = [2.9, 3.0, 4.0, 5.0, 6.0, 7.0, 9.0, 11.0]
    seconds, between = extrapolate_seconds(slower, 2, 102)
    assert between == (103.0, 203.0)
    assert seconds == pytest.approx(3 + 100 * 8 / 6, abs=0.1)
    assert extrapolate_seconds([], 2, 0) == (None, None)
    assert extrapolate_seconds([1.0, 2.0], 2, 2) == (2.0, (1.0, 4.0))


def test_room_counts_previews_and_records(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    beside = needed_bytes({SMALL: 1000}) - needed_bytes({SMALL: 1}) - 999 * 6 * 24 * 24
    assert 999 * 24_000 < beside < 999 * 64_000
    assert needed_bytes({SMALL: 0, OTHER: 0}) == 0

    def free(bytes_: int) -> Any:
        return lambda path: SimpleNamespace(free=bytes_)

    monkeypatch.setattr(
        "voco_data.storage.local.shutil.disk_usage", free(needed_bytes({SMALL: 1000}))
    )
    check_disk_space(LocalStorage(tmp_path), {SMALL: 1000})
    with pytest.raises(VocoError, match="1001 series"):
        check_disk_space(LocalStorage(tmp_path), {SMALL: 1001})


def test_what_a_run_really_takes_is_no_more_than_was_counted(
    archive: Path, specs: Path, tmp_path: Path
) -> None:
    """Blocks on disk, folders included, against the sum; the spare part is for the rest."""
    root = tmp_path / "root"
    preprocess(archive, root, spec_file=specs, workers=1)
    taken = sum(p.stat().st_blocks * 512 for p in root.rglob("*"))
    assert taken <= needed_bytes({SMALL: 4, OTHER: 4})
    volumes = [p for p in root.rglob("*") if "/volumes/c" in str(p) or "/records/" in str(p)]
    previews = list((root / "previews").rglob("*"))
    counted = needed_bytes({SMALL: 4, OTHER: 4}) - 64 * 2**20
    assert sum(p.stat().st_blocks * 512 for p in [*volumes, *previews]) <= counted + 2 * 4096 * 4


def test_a_full_disk_stops_a_run_before_it_starts(
    archive: Path, specs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other archives in the store are no reason to think that this one is in it."""
    preprocess(archive, tmp_path / "root", spec_file=specs, workers=1)
    for number in range(3):
        tags = {"PatientID": f"other-{number}"}
        write_slices(tmp_path / "more" / str(number), body(seed=20 + number), tags=tags)
    need = needed_bytes({SMALL: 3, OTHER: 3})
    usage = SimpleNamespace(free=need - 1)
    monkeypatch.setattr("voco_data.storage.local.shutil.disk_usage", lambda path: usage)
    with pytest.raises(VocoError, match="3 series; free some space"):
        preprocess(tmp_path / "more", tmp_path / "root", spec_file=specs, workers=1)
    usage.free = need
    summary = preprocess(tmp_path / "more", tmp_path / "root", spec_file=specs, workers=1)
    assert summary.stored == 3
