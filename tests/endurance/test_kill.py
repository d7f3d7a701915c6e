"""kill -9 and Ctrl-C at random moments: nothing torn is listed, nothing finished is lost.

Every harm is followed by the same run again, which must end with the stores of a run that
nobody disturbed, file by file. See tests/support/chaos.py and tests/support/store_truth.py.
"""

from __future__ import annotations

import pytest

from tests.support import store_truth
from tests.support.chaos import Chaos, Harm, State
from tests.support.chaos_archive import words

HARMS: tuple[Harm, ...] = ("main", "worker", "ctrl-c", "any")
STATES: tuple[State, ...] = ("first", "second")


def of(seed: int) -> tuple[Harm, State, bool]:
    """Harm, state and kind of worker server of a seed: all of them take turns.

    A lent server is started already, which saves a second; Ctrl-C needs one of the run's own.
    """
    harm, state = HARMS[seed % 4], STATES[seed // 4 % 2]
    return harm, state, harm in ("main", "worker") and seed % 3 != 0


@pytest.mark.parametrize(  # each harm; in the slow set, each in each state
    "seed", [pytest.param(n, marks=() if n in (0, 2, 5, 7) else pytest.mark.slow) for n in range(8)]
)
def test_a_random_moment(chaos: Chaos, seed: int) -> None:
    harm, state, shared = of(seed)
    chaos.harm(seed, harm, state, shared=shared)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1000, 1200))
def test_two_hundred_random_moments(chaos: Chaos, seed: int) -> None:
    harm, state, shared = of(seed)
    chaos.harm(seed, harm, state, shared=shared)


def at_change(chaos: Chaos, state: State, number: int) -> bool:
    """Kill the coordinator before its n-th change of a file; whether there was one."""
    root = chaos.fresh_root("changes", state)
    line = words(chaos.archives[state], root, chaos.specs)
    code = chaos.zygote.run(line, chaos.log, shared=True, die_at=number)
    assert code in (0, -9), chaos.log.read_text()
    chaos.check_resumes(state, root, f"change {number} of {state}", shared=True)
    return code == -9


CHANGES = 140
"""More than the coordinator makes, on a busy machine too."""


@pytest.mark.parametrize("number", [12, 45, 70, 95])
def test_some_changes_of_a_file(chaos: Chaos, number: int) -> None:
    at_change(chaos, "second", number)


@pytest.mark.slow
@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("number", range(1, CHANGES))
def test_every_change_of_a_file(chaos: Chaos, state: State, number: int) -> None:
    at_change(chaos, state, number)


@pytest.mark.parametrize("state", [pytest.param("first", marks=pytest.mark.slow), "second"])
def test_there_is_no_change_beyond(chaos: Chaos, state: State) -> None:
    """So the tests above reach all of them, and most of their numbers are changes."""
    assert at_change(chaos, state, CHANGES // 4)
    assert not at_change(chaos, state, CHANGES)


def test_the_truth_sees_what_is_torn(chaos: Chaos) -> None:
    """The checks of these tests can fail."""
    root = chaos.fresh_root("torn", "second")
    store = store_truth.stores(root)[0]
    store_truth.check_finished(root)
    chunk = next((store / "volumes/c").glob("*/0/0/0"))
    chunk.with_name(".0.77.01234567.tmp").write_bytes(b"")
    with pytest.raises(AssertionError):
        store_truth.check_finished(root)
    chunk.write_bytes(chunk.read_bytes()[:-1])
    with pytest.raises(AssertionError, match="torn chunk"):
        store_truth.check_root(root)
    chunk.unlink()
    with pytest.raises(FileNotFoundError):
        store_truth.check_root(root)
