"""Leases: one run at a time writes to an object store, by conditional writes to one object.

The object names its holder, a fencing token, and for how many seconds a renewal counts. Only the
dates of the object store are compared, so the clocks of machines need not agree. STORE.md,
"Object stores", has the protocol.
"""

from __future__ import annotations

import json
import logging
import math
import os
import platform
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Protocol

from voco_data.errors import InputError, StoreBusy, StoreUnreachable

log = logging.getLogger(__name__)

SECONDS_VARIABLE = "VOCO_LEASE_SECONDS"
DEFAULT_SECONDS = 60.0
"""Time after its last renewal at which a lease expires."""
RENEWALS_PER_LEASE = 4
"""Renewals within that time."""
SAFE_SHARE = 0.75
"""Share of that time for which a holder relies on its last renewal."""
POLLS_PER_LEASE = 20
"""How often a waiting run reads the lease of another run within that time."""
RENEWAL_TRIES = 3
"""Writes of one renewal whose answers may be lost."""
DATE_RESOLUTION_S = 1.0
"""Resolution of the dates of objects: whole seconds."""


@dataclass(frozen=True, slots=True)
class TaggedObject:
    """One version of an object."""

    data: bytes
    tag: str
    """ETag of this version."""
    date: float
    """Time of the write by the clock of the server, in seconds."""


class ConditionalStorage(Protocol):
    """What a lease needs of an object store."""

    def read_tagged(self, key: str, timeout_s: float | None = None) -> TaggedObject | None:
        """An object with its ETag and date, or None if there is no such object."""

    def put_if_match(
        self, key: str, data: bytes | memoryview, tag: str | None, timeout_s: float | None = None
    ) -> str | None:
        """Replace the version `tag` of an object, or create it if `tag` is None.

        Returns the new ETag, or None if the object is not that version.
        """

    def remove(self, key: str) -> None:
        """Remove an object, if it exists."""


@dataclass(frozen=True, slots=True)
class LeaseState:
    """Content of the lease object, as JSON."""

    holder: str
    """Machine and process, for people."""
    nonce: str
    """Identifies one tenure."""
    token: int
    """Grows by one with each tenure."""
    seconds: float
    """Time after a renewal at which the lease expires."""
    renewal: int
    """Grows with each renewal, so that every version has a different ETag."""
    free: bool
    """Whether the holder has released the lease."""
    clean: bool = True
    """Whether everything that earlier holders left unfinished has been repaired."""

    def to_json(self) -> bytes:
        """Bytes of the object."""
        return json.dumps(asdict(self), sort_keys=True).encode()

    @classmethod
    def from_json(cls, data: bytes, url: str) -> LeaseState:
        """Parse the object at `url`. Raises InputError if it is no lease."""
        try:
            return cls(**json.loads(data))
        except (ValueError, TypeError) as error:
            raise InputError(f"{url}: expected a lease of voco ({error}); remove it") from error


_NEVER_HELD = LeaseState(
    holder="",
    nonce="",
    token=0,
    seconds=0.0,
    renewal=0,
    free=True,
)


@contextmanager
def hold_lease(
    storage: ConditionalStorage,
    key: str,
    *,
    wait_seconds: float,
    seconds: float | None = None,
    repairs: bool = True,
) -> Iterator[ObjectLease]:
    """Hold the lease at `key`, renewed by a thread until the block ends.

    The lease of a killed holder expires after `seconds`, by default VOCO_LEASE_SECONDS, or a
    minute. Without `repairs`, a lease that is not clean stays so. Raises
    StoreBusy if another run holds the lease for longer than `wait_seconds`.
    """
    lease = _acquire(storage, key, wait_seconds, _default_seconds() if seconds is None else seconds)
    try:
        lease.start()
        yield lease
        if repairs or lease.is_clean:
            lease.mark_clean()
    finally:
        lease.release()


class ObjectLease:
    """A lease that this process holds."""

    def __init__(
        self, storage: ConditionalStorage, key: str, state: LeaseState, tag: str, sent_at: float
    ) -> None:
        """`state` was written as version `tag` by a request that was sent at `sent_at`."""
        self._storage = storage
        self._key = key
        self._was_clean = state.clean
        self._state = replace(state, clean=False)
        self._tag = tag
        self._renewed_at = sent_at
        self._is_lost = False
        self._state_lock = threading.Lock()
        """Held for each use of the state, by the caller or by the thread that renews."""
        self._stop_renewing = threading.Event()
        self._renewal_thread = threading.Thread(
            target=self._renew_until_stopped, name="voco lease", daemon=True
        )

    @property
    def is_clean(self) -> bool:
        """Whether the previous holder released the lease without an error."""
        return self._was_clean

    def mark_clean(self) -> None:
        """Make the lease clean for its next holder."""
        with self._state_lock:
            self._state = replace(self._state, clean=True)

    def start(self) -> None:
        """Start to renew the lease. Raises InputError if the object store ignores conditions."""
        _check_conditions(self._storage, self._key)
        self._renewal_thread.start()

    def check(self) -> None:
        """Raise StoreBusy if the lease was lost. Renews a lease that may have been lost."""
        with self._state_lock:
            if (
                not self._is_lost
                and _boot_time_s() - self._renewed_at > SAFE_SHARE * self._state.seconds
            ):
                self._renew()
            if self._is_lost:
                raise StoreBusy(
                    f"{self._storage}: the lease was lost to another run, after this one could not "
                    "renew it in time; what is finished stays: run again"
                )

    def release(self) -> None:
        """Stop renewing the lease and mark it free, so that the next run does not wait."""
        self._stop_renewing.set()
        if self._renewal_thread.is_alive():
            self._renewal_thread.join()
        if self._is_lost:
            return
        try:
            self._write(replace(self._state, free=True))
        except (OSError, StoreUnreachable, InputError) as error:
            log.warning("the lease could not be given back (%s); it ends by itself", error)

    @property
    def _interval_s(self) -> float:
        return self._state.seconds / RENEWALS_PER_LEASE

    def _renew_until_stopped(self) -> None:
        """Renew at intervals until the lease is released or lost: the body of the thread."""
        while not self._stop_renewing.wait(self._interval_s):
            with self._state_lock:
                try:
                    self._renew()
                except (OSError, StoreUnreachable, InputError) as error:
                    log.warning("the lease could not be renewed (%s); trying again", error)
                if self._is_lost:
                    log.warning("the lease on %s was lost to another run", self._storage)
                    return

    def _renew(self) -> None:
        self._write(self._state)

    def _write(self, state: LeaseState) -> None:
        """Write a new version of the object, or find that the lease was lost.

        If the object has our nonce and an unknown ETag, it was written by a request whose answer
        was lost. The time of that write is not known, so it does not count as a renewal, and the
        object is written again.
        """
        for _ in range(RENEWAL_TRIES):
            state = replace(state, renewal=state.renewal + 1)
            sent_at = _boot_time_s()
            tag = self._storage.put_if_match(
                self._key, state.to_json(), self._tag, self._interval_s
            )
            if tag is not None:
                self._renewed_at, self._state, self._tag = sent_at, state, tag
                return
            current = self._storage.read_tagged(self._key, self._interval_s)
            if current is None or self._nonce_of(current) != state.nonce:
                self._is_lost = True
                return
            self._tag = current.tag
        raise StoreUnreachable(f"{self._storage}: no renewal of the lease was answered")

    def _nonce_of(self, current: TaggedObject) -> str:
        return LeaseState.from_json(current.data, f"{self._storage}/{self._key}").nonce


def _acquire(
    storage: ConditionalStorage, key: str, wait_seconds: float, seconds: float
) -> ObjectLease:
    """Take the lease once it is free or has expired. Raises StoreBusy after `wait_seconds`."""
    holder = f"{platform.node()}, process {os.getpid()}"
    nonce = secrets.token_hex(8)
    deadline = time.monotonic() + wait_seconds
    clock = None
    while True:
        current = storage.read_tagged(key)
        old = _NEVER_HELD
        remaining_s = 0.0
        if current is not None:
            old = LeaseState.from_json(current.data, f"{storage}/{key}")
            if not old.free:
                clock = clock or _read_server_clock(storage, f"{key}.{nonce}")
                remaining_s = current.date + DATE_RESOLUTION_S + old.seconds - clock.now()
        if remaining_s <= 0:
            if not old.free:
                log.info("%s: taking over from %s, which is gone", storage, old.holder)
            new = LeaseState(
                holder=holder,
                nonce=nonce,
                token=old.token + 1,
                seconds=seconds,
                renewal=0,
                free=False,
                clean=old.free and old.clean,
            )
            sent_at = _boot_time_s()
            tag = _replace(storage, key, current, new.to_json())
            if tag is not None:
                return ObjectLease(storage, key, new, tag, sent_at)
            continue  # another run was faster: it holds the lease, or has released it already
        if time.monotonic() >= deadline:
            raise StoreBusy(
                f"{storage}: another run ({old.holder}) is writing here; wait for it, or give "
                f"--wait SECONDS; if it is gone, its lease ends in {math.ceil(remaining_s)} s"
            )
        until_deadline_s = max(0.0, deadline - time.monotonic())
        time.sleep(min(until_deadline_s, remaining_s, old.seconds / POLLS_PER_LEASE))


def _replace(
    storage: ConditionalStorage, key: str, current: TaggedObject | None, data: bytes
) -> str | None:
    """Write `data` in place of `current`; returns its ETag, or None if another run wrote first."""
    tag = storage.put_if_match(key, data, None if current is None else current.tag)
    if tag is None:  # the write may have arrived, and only its answer was lost
        stored = storage.read_tagged(key)
        tag = stored.tag if stored is not None and stored.data == data else None
    return tag


@dataclass(frozen=True, slots=True)
class _ServerClock:
    """The clock of the server, read once and continued by that of this machine."""

    date: float
    read_at: float

    def now(self) -> float:
        """Time of the server in seconds, up to a second late: dates are cut to whole seconds."""
        return self.date + _boot_time_s() - self.read_at


def _read_server_clock(storage: ConditionalStorage, key: str) -> _ServerClock:
    """Write an object at `key` to learn its date, and remove it."""
    storage.put_if_match(key, b"", None)
    read_at = _boot_time_s()
    written = storage.read_tagged(key)
    storage.remove(key)
    if written is None:
        raise OSError(f"{storage}/{key}: an object was written and is not there")
    return _ServerClock(written.date, read_at)


def _check_conditions(storage: ConditionalStorage, key: str) -> None:
    """Raise InputError if the store ignores conditions: then two runs could write at once."""
    if storage.put_if_match(key, b"{}", None) or storage.put_if_match(key, b"{}", '"0"'):
        storage.remove(key)
        raise InputError(
            f"{storage}: this object store ignores conditional writes (If-None-Match, If-Match), "
            "so it cannot keep two runs apart; use another one, or a folder"
        )


def _boot_time_s() -> float:
    """Seconds of a clock that also counts while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _default_seconds() -> float:
    """VOCO_LEASE_SECONDS, or a minute. Raises InputError."""
    text = os.environ.get(SECONDS_VARIABLE) or str(DEFAULT_SECONDS)
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 1 <= seconds <= 3600:
        raise InputError(f"{SECONDS_VARIABLE}: expected 1 to 3600 seconds, got {text!r}")
    return seconds
