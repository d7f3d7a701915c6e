"""What ids, paths and headers cannot do to a terminal."""

from __future__ import annotations

import logging

import pytest

from flows.command import _MessageFormatter, _one_line, main
from flows.summary import format_table
from flows.terminal_text import escape_controls

HOSTILE = "a\x1b[2J\x1b]0;t\x07\u202eb\udcff\x9b\r"


def is_harmless(text: str) -> bool:
    return all(char == " " or char.isprintable() for char in text)


def test_escapes_of_a_terminal_become_text() -> None:
    assert escape_controls(HOSTILE) == "a\\x1b[2J\\x1b]0;t\\x07\\u202eb\\udcff\\x9b\\r"
    assert escape_controls("ä 患者\nb") == "ä 患者\nb"


def test_messages_and_errors_are_harmless(capsys: pytest.CaptureFixture[str]) -> None:
    record = logging.LogRecord("voco_data", logging.WARNING, "", 1, "%s", (HOSTILE,), None)
    assert is_harmless(_MessageFormatter().format(record))
    assert is_harmless(_one_line(ValueError(HOSTILE)))
    assert main(["store", "ls", f"/nowhere/{HOSTILE}"]) == 2
    assert is_harmless(capsys.readouterr().err.rstrip("\n"))


def test_a_long_or_hostile_id_does_not_stretch_or_break_a_table() -> None:
    lines = list(
        format_table([{"series": "1" * 5_000, "n": 1}, {"series": "x\n" + HOSTILE, "n": 2}])
    )
    assert len(lines) == 3
    assert max(map(len, lines)) < 130
    assert all(map(is_harmless, lines))
