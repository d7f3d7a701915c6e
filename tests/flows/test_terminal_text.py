"""What ids, paths and headers cannot do to a terminal."""

from __future__ import annotations

import logging
import subprocess
import sys

import pytest

from flows.command import _MessageFormatter, _one_line, main
from flows.summary import format_table
from flows.terminal_text import escape_controls
from tests.support.project import PROJECT

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
    assert len(_one_line(ValueError("x" * 500_000))) < 2_100
    capsys.readouterr()
    assert main(["store", "ls", f"/nowhere/{HOSTILE}"]) == 2
    assert is_harmless(capsys.readouterr().err.rstrip("\n"))


def test_a_long_or_hostile_id_does_not_stretch_or_break_a_table() -> None:
    lines = list(
        format_table([{"series": "1" * 5_000, "n": 1}, {"series": "x\n" + HOSTILE, "n": 2}])
    )
    assert len(lines) == 3
    assert max(map(len, lines)) < 130
    assert all(map(is_harmless, lines))


@pytest.mark.parametrize(
    "words",
    [
        ["store", "ls", "root", HOSTILE],
        [f"x{HOSTILE}"],
        ["store", HOSTILE],
        ["preprocess", "a", "--root", "r", "--layout", HOSTILE],
        ["preprocess", "a", "--root", "r", "--wait", HOSTILE],
        ["preprocess", "a", "--root", "r", "--workers", HOSTILE],
        ["forget", "p", "--root", "r", "--runs", f"s3://b/{HOSTILE}"],
        ["split", "s", "--out", "o", f"--seed={HOSTILE}"],
        ["bench", HOSTILE],
        ["server", "worker", f"--{HOSTILE}"],
    ],
    ids=lambda words: f"{words[0][0]}-{len(words)}",
)
def test_errors_of_usage_are_harmless(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert error.endswith("\n")
    assert is_harmless(error.removesuffix("\n"))


def test_warnings_logs_and_tracebacks_of_libraries_are_harmless() -> None:
    code = f"""
import logging, threading, warnings
from flows.terminal_messages import escape_library_messages
escape_library_messages()
text = {HOSTILE!r}
warnings.warn(text)
logging.getLogger("some.library").warning("%s", text)
def fail():
    raise ValueError(text)
thread = threading.Thread(target=fail)
thread.start()
thread.join()
fail()
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    assert all(map(is_harmless, lines))
    assert len([line for line in lines if escape_controls(HOSTILE) in line]) == 4
