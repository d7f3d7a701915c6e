"""Leases: one run at a time writes, also after a holder was killed, suspended or cut off."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from contextlib import ExitStack

import pytest

from tests.support.object_server import ObjectServer, azure_is_slow, use
from tests.support.project import PROJECT
from voco_data.errors import InputError, StoreBusy
from voco_data.storage.lease import TaggedObject, hold_lease
from voco_data.storage.object_store import ObjectStorage

KEY = ".some.lock"
SHORT_S = 2.0


@pytest.fixture
def storage(
    object_server: ObjectServer, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> ObjectStorage:
    use(monkeypatch, object_server.environment)
    return ObjectStorage.from_url(f"{object_server.root}/{request.node.name}")


def state(storage: ObjectStorage) -> dict[str, object]:
    found: dict[str, object] = json.loads(storage.read(KEY))
    return found


def test_one_at_a_time_and_the_token_grows(storage: ObjectStorage) -> None:
    with hold_lease(storage, KEY, wait_seconds=0) as lease:
        lease.check()
        assert state(storage)["free"] is False
        said = f"process {os.getpid()}.* --wait .* ends in"
        with pytest.raises(StoreBusy, match=said), hold_lease(storage, KEY, wait_seconds=0):
            pytest.fail("two held it")
    assert state(storage)["free"] is True
    with hold_lease(storage, KEY, wait_seconds=0):
        assert state(storage)["token"] == 2
    assert [key for key, _ in storage.list_objects()] == [KEY]  # nothing else stays behind


@azure_is_slow
def test_it_is_renewed_for_as_long_as_it_is_held(storage: ObjectStorage) -> None:
    with hold_lease(storage, KEY, wait_seconds=0, seconds=SHORT_S) as lease:
        time.sleep(SHORT_S + 2)
        lease.check()
        with pytest.raises(StoreBusy), hold_lease(storage, KEY, wait_seconds=0):
            pytest.fail("it was taken from one that lives")


@azure_is_slow
def test_waiting_runs_take_turns(storage: ObjectStorage) -> None:
    inside, worst, done = 0, 0, 0
    count = threading.Lock()

    def contend() -> None:
        nonlocal inside, worst, done
        with hold_lease(storage, KEY, wait_seconds=200, seconds=10.0):  # asks each half second
            with count:
                inside += 1
                worst = max(worst, inside)
            time.sleep(0.05)
            with count:
                inside -= 1
                done += 1

    threads = [threading.Thread(target=contend) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (worst, done) == (1, 5)
    assert state(storage)["token"] == 5


HOLDER = """
    import sys, time
    from voco_data.storage.lease import hold_lease
    from voco_data.storage.object_store import ObjectStorage
    where = ObjectStorage.from_url(sys.argv[1])
    with hold_lease(where, sys.argv[2], wait_seconds=0, seconds=float(sys.argv[3])):
        print("held", flush=True)
        time.sleep(300)
"""


def hold_elsewhere(storage: ObjectStorage, object_server: ObjectServer) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(HOLDER), str(storage), KEY, str(SHORT_S)],
        cwd=PROJECT,
        env=os.environ | object_server.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    process.stdout.close()
    return process


def test_a_killed_holder_blocks_until_its_lease_ends(
    storage: ObjectStorage, object_server: ObjectServer
) -> None:
    process = hold_elsewhere(storage, object_server)
    process.send_signal(signal.SIGKILL)
    process.wait()
    said = f"process {process.pid}.* its lease ends in [1-9] s"
    with pytest.raises(StoreBusy, match=said), hold_lease(storage, KEY, wait_seconds=0):
        pytest.fail("its lease had not ended")
    with hold_lease(storage, KEY, wait_seconds=30):
        assert state(storage)["token"] == 2


@azure_is_slow
def test_an_ended_lease_is_taken_without_waiting(
    storage: ObjectStorage, object_server: ObjectServer
) -> None:
    process = hold_elsewhere(storage, object_server)
    process.send_signal(signal.SIGKILL)
    process.wait()
    time.sleep(SHORT_S + 2)
    with hold_lease(storage, KEY, wait_seconds=0):
        assert state(storage)["token"] == 2


@azure_is_slow
def test_ctrl_c_gives_the_lease_back(storage: ObjectStorage, object_server: ObjectServer) -> None:
    process = hold_elsewhere(storage, object_server)
    process.send_signal(signal.SIGINT)
    process.wait()
    with hold_lease(storage, KEY, wait_seconds=0):
        assert state(storage)["token"] == 2


class UnreliableStorage:
    """A storage behind a network that can fail: then no request arrives."""

    def __init__(self, storage: ObjectStorage) -> None:
        self.storage = storage
        self.is_down = False

    def read_tagged(self, key: str, timeout_s: float | None = None) -> TaggedObject | None:
        self._check_network()
        return self.storage.read_tagged(key, timeout_s)

    def put_if_match(
        self, key: str, data: bytes | memoryview, tag: str | None, timeout_s: float | None = None
    ) -> str | None:
        self._check_network()
        return self.storage.put_if_match(key, data, tag, timeout_s)

    def remove(self, key: str) -> None:
        self._check_network()
        self.storage.remove(key)

    def _check_network(self) -> None:
        if self.is_down:
            raise OSError("the network is down")


@azure_is_slow
def test_a_holder_that_comes_back_after_another_took_over_may_not_write(
    storage: ObjectStorage,
) -> None:
    network = UnreliableStorage(storage)
    with hold_lease(network, KEY, wait_seconds=0, seconds=SHORT_S) as lost:
        network.is_down = True
        with hold_lease(storage, KEY, wait_seconds=30) as lease:
            with pytest.raises(OSError, match="down"):
                lost.check()  # too old to rely on, and it cannot be renewed
            network.is_down = False
            with pytest.raises(StoreBusy, match="lost to another run"):
                lost.check()
            with pytest.raises(StoreBusy):
                storage.with_lease(lost).write("k", b"1")
            lease.check()
            storage.with_lease(lease).write("k", b"2")
    assert state(storage)["token"] == 2
    assert storage.read("k") == b"2"


@azure_is_slow
def test_a_short_network_failure_does_not_cost_the_lease(storage: ObjectStorage) -> None:
    network = UnreliableStorage(storage)
    with hold_lease(network, KEY, wait_seconds=0, seconds=SHORT_S) as lease:
        network.is_down = True
        time.sleep(SHORT_S + 2)  # no other run took it over meanwhile
        network.is_down = False
        lease.check()
        assert state(storage)["free"] is False
    assert state(storage)["free"] is True


class AnswerLosingStorage(UnreliableStorage):
    """Some answers to writes are lost: obstore repeats the request, and its condition fails."""

    def __init__(self, storage: ObjectStorage) -> None:
        super().__init__(storage)
        self.lost = 0

    def put_if_match(
        self, key: str, data: bytes | memoryview, tag: str | None, timeout_s: float | None = None
    ) -> str | None:
        answer = super().put_if_match(key, data, tag, timeout_s)
        if not self.lost:
            return answer
        self.lost -= 1
        return None


@azure_is_slow
def test_an_answer_that_is_lost_does_not_cost_the_lease(storage: ObjectStorage) -> None:
    network = AnswerLosingStorage(storage)
    network.lost = 1  # the answer to the very first write
    with hold_lease(network, KEY, wait_seconds=0, seconds=SHORT_S) as lease:
        assert state(storage)["token"] == 1
        network.lost = 1
        time.sleep(SHORT_S + 1)
        lease.check()
        network.lost = 1
    assert network.lost == 0
    assert state(storage)["free"] is True


def test_a_store_that_ignores_conditions_is_refused() -> None:
    class UnconditionalStorage:
        def __init__(self) -> None:
            self.objects: dict[str, TaggedObject] = {}

        def read_tagged(self, key: str, timeout_s: float | None = None) -> TaggedObject | None:
            return self.objects.get(key)

        def put_if_match(
            self,
            key: str,
            data: bytes | memoryview,
            tag: str | None,
            timeout_s: float | None = None,
        ) -> str | None:
            self.objects[key] = TaggedObject(bytes(data), str(time.monotonic_ns()), time.time())
            return self.objects[key].tag

        def remove(self, key: str) -> None:
            del self.objects[key]

    with ExitStack() as stack, pytest.raises(InputError, match="ignores conditional writes"):
        stack.enter_context(hold_lease(UnconditionalStorage(), KEY, wait_seconds=0))


@azure_is_slow
@pytest.mark.parametrize("text", ["soon", "0", "1e9", "nan"])
def test_an_invalid_duration_is_refused(
    storage: ObjectStorage, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv("VOCO_LEASE_SECONDS", text)
    with ExitStack() as stack, pytest.raises(InputError, match="VOCO_LEASE_SECONDS"):
        stack.enter_context(hold_lease(storage, KEY, wait_seconds=0))


@azure_is_slow
def test_an_object_that_is_no_lease_is_not_overwritten(storage: ObjectStorage) -> None:
    storage.write(KEY, b"hello")
    with ExitStack() as stack, pytest.raises(InputError, match="expected a lease"):
        stack.enter_context(hold_lease(storage, KEY, wait_seconds=0))
    assert storage.read(KEY) == b"hello"
