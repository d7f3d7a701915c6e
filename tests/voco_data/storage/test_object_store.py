"""Storage in a bucket, against real servers: objects, conditions, and what errors say."""

from __future__ import annotations

import pickle
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from obstore.store import MemoryStore

from tests.support.azure_server import CONTAINER, AzureServer
from tests.support.object_server import ObjectServer, azure_is_slow, use
from tests.support.s3_server import BUCKET, S3Server
from voco_data.errors import InputError, StoreBusy, StoreUnreachable
from voco_data.storage import object_store, object_store_client
from voco_data.storage.base import Lease
from voco_data.storage.object_store import ObjectStorage
from voco_data.storage.root import store_names
from voco_data.storage.urls import open_storage
from voco_data.store.keys import WRITE_ONCE, chunk_key, record_key


@pytest.fixture
def storage(
    object_server: ObjectServer,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> ObjectStorage:
    use(monkeypatch, object_server.environment | {"VOCO_CACHE": str(tmp_path / "cache")})
    return ObjectStorage.from_url(f"{object_server.root}/{request.node.name}")


class Always:
    """A lease that is never lost."""

    def check(self) -> None:
        pass


def test_an_object_is_written_read_replaced_and_removed(
    storage: ObjectStorage, object_server: ObjectServer
) -> None:
    data = np.arange(12, dtype=np.uint8).reshape(3, 4)
    storage.write("a/b", data.data)  # three-dimensional, as a volume is
    assert object_server.objects(storage.prefix) == {"a/b": bytes(range(12))}
    assert storage.read("a/b") == bytes(range(12))
    assert storage.size("a/b") == 12
    storage.write("a/b", b"new")
    assert (storage / "a").read("b") == b"new"
    storage.remove("a/b")
    storage.remove("a/b")
    assert storage.size("a/b") is None
    with pytest.raises(FileNotFoundError, match=str(storage).partition("[")[0]):
        storage.read("a/b")


@azure_is_slow
@pytest.mark.parametrize("arrives", ["first", "second", "after another run's"])
def test_a_write_with_a_condition_outlives_a_lost_connection(
    storage: ObjectStorage, monkeypatch: pytest.MonkeyPatch, arrives: str
) -> None:
    """Whether the request arrived before the connection was lost is seen from the object."""
    send, tries = ObjectStorage._put_once, 0

    def lossy(self: ObjectStorage, key: str, data: bytes, *rest: Any) -> str | None:
        nonlocal tries
        tries += 1
        if tries == 1:
            if arrives != "second":
                send(self, key, data if arrives == "first" else b"theirs", *rest)
            raise StoreUnreachable("the connection was lost")
        return send(self, key, data, *rest)

    before = storage.put_if_match("k", b"before", None)
    monkeypatch.setattr(ObjectStorage, "_put_once", lossy)
    tag = storage.put_if_match("k", b"ours", before)
    there = storage.read_tagged("k")
    assert there is not None
    if arrives == "after another run's":
        assert (tag, there.data, tries) == (None, b"theirs", 1)
    else:
        assert (tag, there.data) == (there.tag, b"ours")
        assert tries == (1 if arrives == "first" else 2)


def test_listings_are_whole_and_of_this_prefix_only(
    storage: ObjectStorage, object_server: ObjectServer
) -> None:
    """On S3 of more than the 1,000 keys of one answer."""
    store, other = (f"small-{number:012x}.zarr" for number in range(2))
    keys = [f"{store}/{number:04d}" for number in range(1005 if is_s3(object_server) else 12)]
    for key in keys:
        storage.write(key, b"12")
    for key in (f"{other}/z/one", "runs/a/ledger.parquet", "notes.txt", f"{store}.txt"):
        storage.write(key, b"1")
    beside = ObjectStorage.from_url(f"{storage}-beside")
    beside.write(f"{store}/other", b"")
    assert sorted(storage.list_objects(store)) == [(key, 2) for key in keys]
    assert len(list(storage.list_objects())) == len(keys) + 4
    assert sorted(storage.list_folders()) == ["runs", store, other]
    assert list((storage / other).list_objects()) == [("z/one", 1)]
    before = len(object_server.requests())
    assert store_names(storage) == [store, other]
    assert len(object_server.requests()) == before + 1


def is_s3(server: ObjectServer) -> bool:
    return isinstance(server, S3Server)


def test_a_large_object_goes_up_in_parts_and_is_there_whole_or_not_at_all(
    storage: ObjectStorage,
) -> None:
    data = np.random.default_rng(0).integers(0, 256, 65 * 2**20, np.uint8).tobytes()
    with storage.replacing("large") as path:
        path.write_bytes(data)
        assert storage.size("large") is None
    with storage.as_file("large") as copy:
        assert copy.read_bytes() == data
    assert not copy.exists()
    with pytest.raises(FileNotFoundError), storage.replacing("large") as path:
        path.with_name("missing").read_bytes()
    assert storage.size("large") == len(data)


def test_a_storage_is_pickled_with_its_access_and_shows_no_key(
    storage: ObjectStorage, object_server: ObjectServer
) -> None:
    storage.write("k", b"1")
    twin = pickle.loads(pickle.dumps(storage))
    assert twin == storage
    assert twin.read("k") == b"1"
    for text in (repr(storage), str(storage), repr(storage.access)):
        assert not any(secret in text for secret in object_server.secrets)


def test_a_folder_that_another_run_removes_too_is_removed(
    storage: ObjectStorage, object_server: ObjectServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    last = 20 if is_s3(object_server) else 299  # more than one request to Azure takes
    for number in range(last + 1):
        storage.write(f"x/{number}", b"1")
    listed = list(storage._list("x"))
    for number in (0, 7, last):
        storage.remove(f"x/{number}")
    answers = iter([iter(listed)])
    original = ObjectStorage._list
    monkeypatch.setattr(ObjectStorage, "_list", lambda s, f: next(answers, None) or original(s, f))
    storage.remove_folder("x")
    assert object_server.objects(f"{storage.prefix}/x/") == {}


def test_the_lease_holder_replaces_only_versions_that_it_has_read(storage: ObjectStorage) -> None:
    storage.write("seen", b"1")
    storage.write("unseen", b"1")
    ours = storage.with_lease(Always())
    assert ours.read("seen") == b"1"
    assert ours.size("absent") is None
    ours.write("seen", b"2")
    ours.write("seen", b"3")  # its own version
    storage.write("seen", b"theirs")
    storage.write("absent", b"theirs")
    for key in ("seen", "absent"):
        with pytest.raises(StoreBusy, match="another run has written"):
            ours.write(key, b"4")
        with pytest.raises(StoreBusy), ours.replacing(key) as path:
            path.write_bytes(b"4")
        assert storage.read(key) == b"theirs"
    ours.write("unseen", b"2")
    assert storage.read("unseen") == b"2"


def test_the_lease_holder_may_create_again_what_it_removed(storage: ObjectStorage) -> None:
    keys = ["one", "folder/two"]
    for key in keys:
        storage.write(key, b"1")
    ours = storage.with_lease(Always())
    for key in keys:
        ours.read(key)
    ours.remove("one")
    ours.remove_folder("folder")
    assert list(storage.list_objects()) == []
    for key in keys:
        ours.write(key, b"2")
        assert storage.read(key) == b"2"
    ours.remove("one")
    storage.write("one", b"theirs")  # condition: still absent
    with pytest.raises(StoreBusy, match="another run has written"):
        ours.write("one", b"3")


def test_a_folder_below_is_under_the_same_lease(storage: ObjectStorage) -> None:
    storage.write("a/b/k", b"1")
    below = storage.with_lease(Always()) / "a" / "b"
    assert below.read("k") == b"1"
    storage.write("a/b/k", b"theirs")
    with pytest.raises(StoreBusy, match="another run has written"):
        below.write("k", b"2")


MANY = 60_000


@azure_is_slow
def test_stamps_of_a_large_store_are_kept_on_disk(
    storage: ObjectStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def listed(_: ObjectStorage, folder: str) -> Iterator[tuple[str, int, str]]:
        return ((f"{folder}/{row}", row, f'"{row:032x}"') for row in range(MANY))

    monkeypatch.setattr(ObjectStorage, "_list", listed)
    keys = (f"volumes/c/{row}" for row in range(MANY + 1))
    tracemalloc.start()
    try:
        for row, stamp in enumerate(storage.stamps("volumes/c", keys)):
            assert stamp == (f'{row} "{row:032x}"' if row < MANY else "")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2 * 2**20  # 16 MiB in a dictionary


@azure_is_slow
def test_no_request_is_sent_for_no_stamps(
    storage: ObjectStorage, object_server: ObjectServer
) -> None:
    before = len(object_server.requests())
    assert list(storage.stamps("volumes/c", [])) == []
    assert len(object_server.requests()) == before


@azure_is_slow
def test_a_writer_does_not_remember_every_volume(
    storage: ObjectStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = MemoryStore()
    monkeypatch.setattr(object_store, "open_client", lambda *_, **__: memory)
    ours = storage.with_lease(Always(), WRITE_ONCE)
    for key in ("volumes/zarr.json", "volumes/c/0/0/0/0"):
        storage.write(key, b"1")
    tracemalloc.start()
    try:
        for row in range(5_000):
            assert ours.size(record_key(row)) is None
            assert ours.size(chunk_key(row)) == (1 if row == 0 else None)
        now, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert now < 2**18  # 1.5 MiB if it did
    assert ours.read("volumes/zarr.json") == b"1"  # not a key that is written once
    storage.write("volumes/zarr.json", b"theirs")
    with pytest.raises(StoreBusy):
        ours.write("volumes/zarr.json", b"2")


@azure_is_slow
def test_a_write_whose_answer_was_lost_is_recognised(storage: ObjectStorage) -> None:
    storage.write("k", b"1")
    ours = storage.with_lease(Always())
    ours.read("k")
    storage.write("k", b"2")  # as if our request had arrived, and its answer been lost
    ours.write("k", b"2")
    ours.write("k", b"3")
    assert storage.read("k") == b"3"


def test_a_run_without_its_lease_writes_and_removes_nothing(storage: ObjectStorage) -> None:
    class Lost:
        def check(self) -> None:
            raise StoreBusy("lost")

    lost: Lease = Lost()
    storage.write("k", b"1")
    ours = storage.with_lease(lost)
    with pytest.raises(StoreBusy):
        ours.write("k", b"2")
    with pytest.raises(StoreBusy):
        ours.remove("k")
    with pytest.raises(StoreBusy), ours.replacing("k") as path:
        path.write_bytes(b"")
    assert storage.read("k") == b"1"
    assert type(pickle.loads(pickle.dumps(ours))) is ObjectStorage  # workers have no lease to check


def test_pictures_are_fetched_once_until_they_change(
    storage: ObjectStorage, object_server: ObjectServer
) -> None:
    storage.write("previews/a", b"one")
    storage.write("previews/b", b"two")
    assert storage.cached_reader("previews").read("previews/a") == b"one"
    before = len(object_server.requests())
    again = storage.cached_reader("previews")
    assert again.read("previews/a") == b"one"
    assert len(object_server.requests()) == before + 1  # the listing
    storage.write("previews/a", b"new")
    assert storage.cached_reader("previews").read("previews/a") == b"new"
    with pytest.raises(FileNotFoundError):
        again.read("previews/c")


def test_without_keys_or_a_role_it_says_which_variables(
    s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, s3_server.environment | {"AWS_METADATA_ENDPOINT": "http://127.0.0.1:9"})
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(InputError, match=r"no credentials .* set AWS_ACCESS_KEY_ID"):
        open_storage(f"s3://{BUCKET}/p").read("k")


def test_a_missing_account_is_one_line(
    azure_server: AzureServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, azure_server.environment)
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_NAME")
    with pytest.raises(InputError, match="needs AZURE_STORAGE_ACCOUNT_NAME: set it"):
        open_storage(f"az://{CONTAINER}/p")


S3, AZ = f"s3://{BUCKET}", f"az://{CONTAINER}"
WRONG_S3, WRONG_AZ = "expected s3://BUCKET/PREFIX", "expected az://CONTAINER/PREFIX"
NOBODY = "http://127.0.0.1:9/a"


@pytest.mark.parametrize(
    ("url", "environment", "error", "said"),
    [
        ("s3://no-such-bucket/p", {}, InputError, "no such bucket"),
        (f"{S3}/p", {"AWS_ENDPOINT_URL": NOBODY}, StoreUnreachable, "answer"),
        ("s3:///p", {}, InputError, WRONG_S3),
        (f"{S3}/a/../b", {}, InputError, WRONG_S3),
        (f"{S3}/a?b=c", {}, InputError, WRONG_S3),
        ("az://no-such-container/p", {}, InputError, "no such container"),
        (f"{AZ}/p", {"AZURE_STORAGE_ENDPOINT": NOBODY}, StoreUnreachable, "answer"),
        (f"{AZ}/p", {"AZURE_STORAGE_ACCOUNT_KEY": "d3Jvbmc="}, InputError, "refuses access"),
        (
            f"{AZ}/p",
            {"AZURE_STORAGE_ACCOUNT_KEY": "no base64"},
            InputError,
            "AZURE_STORAGE_ACCOUNT_KEY",
        ),
        ("az:///p", {}, InputError, WRONG_AZ),
        (f"az://user:secret@{CONTAINER}/p", {}, InputError, WRONG_AZ),
        (f"{AZ}/p/../b", {}, InputError, WRONG_AZ),
    ],
)
def test_what_cannot_be_reached_is_one_line(
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    url: str,
    environment: dict[str, str],
    error: type[Exception],
    said: str,
) -> None:
    name = "s3_server" if url.startswith("s3:") else "azure_server"
    server: ObjectServer = request.getfixturevalue(name)
    use(monkeypatch, server.environment | environment)
    monkeypatch.setattr(object_store_client, "FIRST_RETRIES", 1)  # six take two seconds, each time
    for ask in (
        lambda storage: storage.read("k"),
        lambda storage: storage.write("k", b""),
        lambda storage: storage.remove("k"),
        lambda storage: list(storage.list_objects()),
        lambda storage: list(storage.list_folders()),
    ):
        with pytest.raises(error, match=said) as caught:
            ask(open_storage(url))
        assert "\n" not in str(caught.value)
        assert not any(secret in str(caught.value) for secret in server.secrets)


def test_https_is_not_given_up_for_http(
    object_server: ObjectServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    secure = object_server.endpoint.replace("http://", "https://")
    use(monkeypatch, object_server.environment | {object_server.endpoint_variable: secure})
    before = len(object_server.requests())
    with pytest.raises(StoreUnreachable):
        open_storage(f"{object_server.root}/p").read("k")
    assert len(object_server.requests()) == before


def test_an_address_without_its_scheme_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, {"AWS_ENDPOINT_URL": "localhost:9000"})
    with pytest.raises(InputError, match="expected https://HOST"):
        open_storage("s3://b/p")
