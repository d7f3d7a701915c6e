"""A lease: one writer at a time where nobody holds a lock, by conditional writes to one object.

The object says who writes, under which fencing token, and for how many seconds a renewal counts.
Dates are the object store's own, so clocks of machines need not agree. See STORE.md.
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
SECONDS = 60.0
"""How long a lease outlives its last renewal."""
RENEWALS = 4
"""Renewals in that time."""
SAFE = 0.75
"""Share of the time after which a holder that could not renew takes the lease for lost."""
POLLS = 20
"""Looks at another's lease in the time that it may last."""
TRIES = 3
"""Of a renewal whose answers are lost."""
DATE_STEP_S = 1.0
"""Dates of objects are whole seconds."""


@dataclass(frozen=True, slots=True)
class Tagged:
    """An object with what identifies this version of it."""

    data: bytes
    tag: str
    """ETag."""
    date: float
    """When it was written, by the server's clock, in seconds."""


class Conditional(Protocol):
    """What a lease needs of an object store."""

    def tagged(self, key: str, patience_s: float | None = None) -> Tagged | None:
        """An object, or None."""

    def put_if(
        self, key: str, data: bytes | memoryview, tag: str | None, patience_s: float | None = None
    ) -> str | None:
        """Replace the object of this tag (None: make it); the new tag, or None if too late."""

    def remove(self, key: str) -> None:
        """Remove an object."""


@dataclass(frozen=True, slots=True)
class State:
    """What the object says."""

    holder: str
    """Machine and process, for people."""
    nonce: str
    """Names one tenure."""
    token: int
    """Grows by one with each tenure."""
    seconds: float
    """How long a renewal counts."""
    renewal: int
    """Grows with each renewal, so that every version has another ETag."""
    free: bool
    """The holder has let go."""
    clean: bool = True
    """Every holder so far ended without an error, or what one left was put in order since."""

    def to_json(self) -> bytes:
        """The object's bytes."""
        return json.dumps(asdict(self), sort_keys=True).encode()

    @classmethod
    def from_json(cls, data: bytes, where: str) -> State:
        """Parse. Raises InputError for an object that is no lease."""
        try:
            return cls(**json.loads(data))
        except (ValueError, TypeError) as error:
            raise InputError(f"{where}: expected a lease of voco ({error}); remove it") from error


_FIRST = State("", "", 0, 0.0, 0, free=True)
"""Before anyone held it."""


@contextmanager
def hold_lease(
    store: Conditional,
    key: str,
    *,
    wait_seconds: float,
    seconds: float | None = None,
    tidies: bool = True,
) -> Iterator[ObjectLease]:
    """Hold the lease at `key`, renewed by a thread until the block ends.

    `seconds` is how long it outlives a holder that was killed; by default VOCO_LEASE_SECONDS, or
    a minute. Not `tidies`: what a killed holder left is for the next. Raises StoreBusy when another
    still holds it after `wait_seconds`.
    """
    lasting = _seconds() if seconds is None else seconds
    held = ObjectLease(store, key, *_acquire(store, key, wait_seconds, lasting))
    try:
        held.start()
        yield held
        if tidies or held.ended_well:
            held.ends_well()
    finally:
        held.release()


class ObjectLease:
    """A lease in our hands, while it is."""

    def __init__(self, store: Conditional, key: str, state: State, tag: str, sent: float) -> None:
        self._store = store
        self._key = key
        self._state = state
        self._tag = tag
        self._sent = sent
        self._before = state.clean
        self._state = replace(state, clean=False)
        self._lost = False
        self._turn = threading.Lock()
        self._end = threading.Event()
        self._heart = threading.Thread(target=self._beat, name="voco lease", daemon=True)

    @property
    def ended_well(self) -> bool:
        """Whether the holder before let go, after no error."""
        return self._before

    def ends_well(self) -> None:
        """Say so to the next."""
        with self._turn:
            self._state = replace(self._state, clean=True)

    def start(self) -> None:
        """Begin to renew. Raises InputError if the object store ignores conditions."""
        _prove_conditions(self._store, self._key)
        self._heart.start()

    def check(self) -> None:
        """Raise StoreBusy if the lease was lost, or may have been."""
        with self._turn:
            if not self._lost and _now() - self._sent > SAFE * self._state.seconds:
                self._renew()  # only the store can say
            if self._lost:
                raise StoreBusy(
                    f"{self._store}: the lease was lost to another run, after this one could not "
                    "renew it in time; what is finished stays: run again"
                )

    def release(self) -> None:
        """Let go at once, so that the next need not wait."""
        self._end.set()
        if self._heart.is_alive():
            self._heart.join()
        if self._lost:
            return
        try:
            self._replace(replace(self._state, free=True))
        except (OSError, StoreUnreachable, InputError) as error:
            log.warning("the lease could not be given back (%s); it ends by itself", error)

    @property
    def _patience(self) -> float:
        return self._state.seconds / RENEWALS

    def _beat(self) -> None:
        while not self._end.wait(self._patience):
            with self._turn:
                try:
                    self._renew()
                except (OSError, StoreUnreachable, InputError) as error:
                    log.warning("the lease could not be renewed (%s); trying again", error)
                if self._lost:
                    log.warning("the lease on %s was lost to another run", self._store)
                    return

    def _renew(self) -> None:
        self._replace(self._state)

    def _replace(self, state: State) -> None:
        """Put a newer version in the place of our last, or find that it was lost.

        A version of ours that we do not know is one whose answer was lost on the way. It was
        written we do not know when, so it is no renewal: the next one is.
        """
        for _ in range(TRIES):
            state = replace(state, renewal=state.renewal + 1)
            sent = _now()
            tag = self._store.put_if(self._key, state.to_json(), self._tag, self._patience)
            if tag is not None:
                self._sent, self._state, self._tag = sent, state, tag
                return
            found = self._store.tagged(self._key, self._patience)
            if found is None or self._nonce_of(found) != state.nonce:
                self._lost = True
                return
            self._tag = found.tag
        raise StoreUnreachable(f"{self._store}: its answers are lost on the way")

    def _nonce_of(self, found: Tagged) -> str:
        return State.from_json(found.data, f"{self._store}/{self._key}").nonce


def _acquire(
    store: Conditional, key: str, wait_seconds: float, seconds: float
) -> tuple[State, str, float]:
    """State, ETag and time of our first version of the object."""
    holder = f"{platform.node()}, process {os.getpid()}"
    nonce, deadline, clock = secrets.token_hex(8), time.monotonic() + wait_seconds, None
    while True:
        found = store.tagged(key)
        old = _FIRST if found is None else State.from_json(found.data, f"{store}/{key}")
        left = 0.0
        if found is not None and not old.free:
            clock = clock or _server_clock(store, f"{key}.{nonce}")
            left = found.date + DATE_STEP_S + old.seconds - clock.now()
        if left <= 0:
            if not old.free:
                log.info("%s: taking over from %s, which is gone", store, old.holder)
            mine = State(
                *(holder, nonce, old.token + 1, seconds, 0),
                free=False,
                clean=old.free and old.clean,
            )
            sent, data = _now(), mine.to_json()
            tag = store.put_if(key, data, None if found is None else found.tag)
            if tag is None:
                now = store.tagged(key)  # lost a race, or only the answer
                tag = now.tag if now is not None and now.data == data else None
            if tag is not None:
                return mine, tag, sent
            continue  # somebody was faster: he holds it now, or has let go again
        if time.monotonic() >= deadline:
            raise StoreBusy(
                f"{store}: another run ({old.holder}) is writing here; wait for it, or give "
                f"--wait SECONDS; if it is gone, its lease ends in {math.ceil(left)} s"
            )
        time.sleep(min(max(0.0, deadline - time.monotonic()), left, old.seconds / POLLS))


@dataclass(frozen=True, slots=True)
class _Clock:
    """The server's clock, read once and carried on by ours."""

    date: float
    read: float

    def now(self) -> float:
        """Never ahead of the server: dates are cut to seconds."""
        return self.date + _now() - self.read


def _server_clock(store: Conditional, key: str) -> _Clock:
    """Write an object to learn its date."""
    store.put_if(key, b"", None)
    read, found = _now(), store.tagged(key)
    store.remove(key)
    if found is None:
        raise OSError(f"{store}/{key}: an object was written and is not there")
    return _Clock(found.date, read)


def _prove_conditions(store: Conditional, key: str) -> None:
    """Without conditions two runs would write at once, and nothing would say so."""
    if store.put_if(key, b"{}", None) or store.put_if(key, b"{}", '"0"'):
        store.remove(key)
        raise InputError(
            f"{store}: this object store ignores conditional writes (If-None-Match, If-Match), so "
            "it cannot keep two runs apart; use another one, or a folder"
        )


def _now() -> float:
    """Seconds, those in which the machine slept included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _seconds() -> float:
    text = os.environ.get(SECONDS_VARIABLE) or str(SECONDS)
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 1 <= seconds <= 3600:
        raise InputError(f"{SECONDS_VARIABLE}: expected 1 to 3600 seconds, got {text!r}")
    return seconds
