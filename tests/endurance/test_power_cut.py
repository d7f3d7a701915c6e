"""The power fails between two writes of a run: nothing false is read, and the next run repairs.

tests/support/power_loss.py has the model of the disk.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from tests.support.power_cuts import SCENARIOS, PowerCuts
from tests.support.power_loss import FATES, DiskLog, Fate, read_tree

POINTS = st.integers(0, 2000)
SEEDS = st.integers(0, 2**32 - 1)
no_limits = settings(
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)


@pytest.fixture(scope="module")
def cuts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PowerCuts]:
    with pytest.MonkeyPatch.context() as patch:
        made = PowerCuts(tmp_path_factory.mktemp("cuts").resolve(), patch)
        made.prepare()
        yield made


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_nothing_writes_around_the_log(cuts: PowerCuts, scenario: str) -> None:
    """Replayed wholly, it is the root byte by byte."""
    log = cuts.logs[scenario]
    assert log.after_crash(len(log.operations), "kept", 0) == read_tree(log.folder)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_all_but_locks_is_durable_at_the_end(cuts: PowerCuts, scenario: str) -> None:
    log = cuts.logs[scenario]
    left, whole = log.after_crash(len(log.operations), "lost", 0), read_tree(log.folder)
    assert set(left) == set(whole)
    differ = {name for name in whole if left[name] != whole[name]}
    assert not [name for name in differ if not name.endswith((".lock", ".fence"))]


@pytest.mark.parametrize("scenario", SCENARIOS)
@settings(no_limits, max_examples=7)
@given(point=POINTS, fate=st.sampled_from(FATES), seed=SEEDS)
def test_a_power_cut(cuts: PowerCuts, scenario: str, point: int, fate: Fate, seed: int) -> None:
    cuts.cut(scenario, point, fate, seed)


@pytest.mark.slow
@pytest.mark.parametrize("scenario", SCENARIOS)
@settings(no_limits, max_examples=300)
@given(point=POINTS, fate=st.sampled_from(FATES), seed=SEEDS)
def test_nine_hundred_power_cuts(
    cuts: PowerCuts, scenario: str, point: int, fate: Fate, seed: int
) -> None:
    cuts.cut(scenario, point, fate, seed)


@pytest.mark.slow
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_every_point_with_names_kept_and_bytes_lost(cuts: PowerCuts, scenario: str) -> None:
    for point in range(len(cuts.logs[scenario].operations) + 1):
        cuts.cut(scenario, point, "names kept", point)


def test_the_model_loses_what_is_not_synced(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The outcomes of a write without fsync, and of one with it, worked out by hand."""
    from voco_data.storage import atomic

    for synced in (False, True):
        folder = tmp_path_factory.mktemp("disk").resolve()
        log = DiskLog(folder)
        with log.recording(monkeypatch):
            atomic.write_bytes(folder / "file", b"x" * 9000, synced=synced)
        end = len(log.operations)
        outcomes = {log.after_crash(end, "any", seed).get("file") for seed in range(200)}
        if synced:
            assert outcomes == {b"x" * 9000}
        else:
            assert {None, b"", b"x" * 9000, bytes(9000)} < outcomes
            assert b"x" * 4096 + bytes(4096) + b"x" * 808 in outcomes
