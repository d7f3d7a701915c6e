"""The network to S3 is cut while a flow fills a store."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flows.preprocess import preprocess, preprocess_archive
from tests.support.ct_files import body, write_slices
from tests.support.cut_network import CutNetwork, network_to
from tests.support.object_server import use
from tests.support.s3_server import S3Server
from voco_data.errors import StoreUnreachable
from voco_data.ingest.run import preprocess as preprocess_plainly
from voco_data.maintenance.verification import verify_store
from voco_data.store import Store, StoreSpec

SMALL = StoreSpec(profile="small", grid=(6, 24, 24))
SERIES = 4
FIRST_CHUNKS = 6
"""PUT requests of a new store: its metadata and locks. The next ones are of series."""


@pytest.fixture
def network(
    s3_server: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[CutNetwork]:
    """The only way to S3 for what is tested."""
    own = {"VOCO_CACHE": str(tmp_path / "cache"), "XDG_DATA_HOME": str(tmp_path / "data")}
    with network_to(int(s3_server.endpoint.rpartition(":")[2])) as way:
        use(monkeypatch, s3_server.environment | own | {"AWS_ENDPOINT_URL": way.endpoint})
        yield way


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    (tmp_path / "specs.json").write_text(f"[{SMALL.canonical_json()}]")
    for number in range(SERIES):
        tags = {"PatientID": f"p{number}"}
        write_slices(tmp_path / f"archive/s{number}", body(seed=number), tags=tags)
    return tmp_path / "archive"


def options(archive: Path) -> dict[str, Any]:
    return {"spec_file": archive.parent / "specs.json", "workers": 1, "keep_ids": True}


def check_store(url: str, archive: Path) -> None:
    """The store has what an undisturbed run writes to a folder."""
    store = f"{url}/{SMALL.name}"
    assert verify_store(store).problems == ()
    root = archive.parent / "undisturbed"
    preprocess_plainly(archive, root, **options(archive))
    made, truth = (Store.open(place) for place in (store, root / SMALL.name))
    patients = [list(s.catalogue.sort_values("patient_id")["patient_id"]) for s in (made, truth)]
    assert patients[0] == patients[1] == [f"p{number}" for number in range(SERIES)]
    rows = [s.catalogue.sort_values("patient_id").index for s in (made, truth)]
    for row, same in zip(*rows, strict=True):
        assert np.array_equal(made.read(row), truth.read(same))


@pytest.mark.parametrize("put", [1, FIRST_CHUNKS + 1, FIRST_CHUNKS + 6])
def test_a_short_cut_is_waited_out(
    embedded: None, network: CutNetwork, s3_server: S3Server, archive: Path, put: int
) -> None:
    url = f"{s3_server.root}/short-{put}"
    network.cut_at_put(put)

    def heal() -> None:
        assert network.was_cut.wait(60)
        time.sleep(1.5)
        network.heal()

    healer = threading.Thread(target=heal)
    healer.start()
    summary = preprocess(archive, url, **options(archive))
    healer.join()
    assert network.refused > 0
    assert (summary["stored"], summary["refused"]) == (SERIES, 0)
    check_store(url, archive)


@pytest.mark.slow
def test_a_long_cut_fails_the_task_and_its_next_try_goes_on(
    embedded: None, network: CutNetwork, s3_server: S3Server, archive: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """The client tries for a minute. The next try of the task waits for the lease of the first."""
    tries: list[str] = []
    stage = preprocess_plainly

    def watched(*args: Any, **given: Any) -> Any:
        try:
            return stage(*args, **given)
        except StoreUnreachable as error:
            tries.append(str(error))
            network.heal()
            raise

    monkeypatch.setattr("voco_data.ingest.preprocess", watched)
    monkeypatch.setattr(
        "flows.preprocess.preprocess_archive",
        preprocess_archive.with_options(retry_delay_seconds=1),
    )
    url = f"{s3_server.root}/long"
    network.cut_at_put(FIRST_CHUNKS + 6)
    summary = preprocess(archive, url, wait=90.0, **options(archive))
    [message] = tries
    assert "\n" not in message
    assert "answer" in message
    assert summary["stored"] + summary["cached"] == SERIES
    check_store(url, archive)
