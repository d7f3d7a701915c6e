"""Files that a user names: devices, sizes, and JSON that a parser should not be given."""

from __future__ import annotations

import os
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from voco_data.errors import InputError
from voco_data.storage.input_files import parse_toml, read_bytes, read_json, read_text, read_toml


def refused(call: Any, *arguments: Any) -> str:
    with pytest.raises(InputError) as caught:
        call(*arguments)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_what_is_no_regular_file_is_refused_without_reading_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    for path, words in (
        (tmp_path / "pipe", "got a pipe or a device"),
        (Path("/dev/zero"), "got a pipe or a device"),
        (tmp_path, "got a folder"),
        (tmp_path / "missing", "No such file"),
        (tmp_path / "loop", "symbolic links"),
        (tmp_path / "nul\0", "null"),
    ):
        assert words in refused(read_bytes, path, "labels", 1000)


def test_a_file_has_a_limit(tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.write_bytes(b"x" * 1000)
    assert read_bytes(file, "labels", 1000) == b"x" * 1000
    assert "expected at most 999 bytes, got 1,000" in refused(read_bytes, file, "labels", 999)


def test_a_file_without_a_size_has_a_limit_too() -> None:
    """Files of /proc have the size 0."""
    assert "it is growing" in refused(read_bytes, Path("/proc/self/maps"), "labels", 10)


def test_text_is_utf_8(tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.write_bytes("Größe".encode())
    assert read_text(file, "notes") == "Größe"
    file.write_bytes(b"\xff\xfe")
    assert "expected UTF-8" in refused(read_text, file, "notes")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "cannot be read as JSON"),
        ("{", "cannot be read as JSON"),
        ("NaN", "NaN is not a number in JSON"),
        ("[-Infinity]", "-Infinity is not a number in JSON"),
        ("1e999", "too large"),
        ("9" * 5000, "cannot be read as JSON"),
        ('{"a": 1, "b": {"c": 1, "c": 1}}', "'c' comes twice"),
        ("[" * 100_000, "nested too deeply"),
        ('{"a":' * 100_000, "nested too deeply"),
    ],
)
def test_json_that_json_does_not_define_is_refused(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "f.json"
    file.write_text(text)
    assert words in refused(read_json, file, "spec file")


def test_json_is_read(tmp_path: Path) -> None:
    file = tmp_path / "f.json"
    file.write_text('{"a": [1, 2.5, null, "ä"]}')
    assert read_json(file, "spec file") == {"a": [1, 2.5, None, "ä"]}


TOML = {
    "brackets": "a = " + "[" * 100_000,
    "tables": "a = " + "{b=" * 100_000,
    "bare key": "a" + ".a" * 20_000 + " = 1",
    "quoted key": '"a"' + " . 'a'" * 20_000 + " = 1",
    "header": "[a" + ".a" * 20_000 + "]",
    "key of an inline table": "a = {a" + ".a" * 20_000 + " = 1}",
    "digits": "a = " + "9" * 5000,
    "zero byte": "\0",
    "twice": "a = 1\na = 2",
}


@pytest.mark.parametrize("text", TOML.values(), ids=TOML)
def test_toml_that_a_parser_should_not_be_given_is_one_line(tmp_path: Path, text: str) -> None:
    file = tmp_path / "f.toml"
    file.write_text(text)
    tracemalloc.start()
    try:
        assert "cannot be read as TOML" in refused(read_toml, file, "recipe")
        assert tracemalloc.get_traced_memory()[1] < 2**26
    finally:
        tracemalloc.stop()
    with pytest.raises(ValueError, match=r"key|deep|digits|\(at "):
        parse_toml(text)


def test_toml_has_a_limit_and_dots_in_values_are_none_of_a_key(tmp_path: Path) -> None:
    file = tmp_path / "f.toml"
    file.write_text("#" * (2 << 20))
    assert "expected at most 1,048,576 bytes" in refused(read_toml, file, "recipe")
    numbers = ", ".join(["0.5"] * 1000)
    file.write_text(f'a.b = [{numbers}]\nuid = "{".".join(["1"] * 32)}"\n')
    values = read_toml(file, "recipe")
    assert values == {"a": {"b": [0.5] * 1000}, "uid": ".".join(["1"] * 32)}
