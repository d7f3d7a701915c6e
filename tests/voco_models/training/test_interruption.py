"""Signals that stop training: repeated ones, and in several processes, which stop at one step."""

from __future__ import annotations

import signal

import pytest

from voco_models.training import hooks
from voco_models.training.hooks import Interruption


def test_a_signal_during_the_agreement_counts_at_the_next_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else this process would stop at a step after which the others go on, and wait for them."""

    def signalled(number: int) -> int:
        signal.raise_signal(signal.SIGINT)
        return number

    answers = []

    def steps() -> None:
        with Interruption() as interruption:
            monkeypatch.setattr(hooks, "largest_of_processes", signalled)
            answers.append(interruption.has_signal())
            monkeypatch.setattr(hooks, "largest_of_processes", lambda number: number)
            answers.append(interruption.has_signal())

    with pytest.raises(KeyboardInterrupt):
        steps()
    assert answers == [False, True]


def test_the_signal_of_another_process_stops_this_one_and_its_own_does_not_end_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`torchrun` signals all processes when one of them was."""
    monkeypatch.setattr(hooks, "n_processes", lambda: 2)
    monkeypatch.setattr(hooks, "largest_of_processes", lambda _: int(signal.SIGINT))
    answers = []

    def steps() -> None:
        with Interruption() as interruption:
            answers.append(interruption.has_signal())
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
            answers.append(True)  # such as saving the checkpoint

    with pytest.raises(KeyboardInterrupt):
        steps()
    assert answers == [True, True]


def test_sigterm_counts_once_however_often_it_is_sent() -> None:
    """A service manager may send it to a process and to its group."""
    received = []
    before = signal.signal(signal.SIGTERM, lambda number, _: received.append(number))
    try:
        with Interruption() as interruption:
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGTERM)
            assert received == []
            assert interruption.has_signal()
        assert received == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)
