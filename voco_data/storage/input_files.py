"""Files that a user names, read with a limit: bytes, text, JSON, TOML; `input_tables` reads tables.

A path may be a device or a pipe that never ends, a file of many GB, or text nested so deeply that a
parser fails. All of these end in one line that names the file.
"""

from __future__ import annotations

import json
import math
import re
import stat
import tomllib
from pathlib import Path
from typing import Any

from voco_data.errors import InputError

MAX_JSON_BYTES = 64 << 20
"""Far above any file that voco writes."""
MAX_TOML_BYTES = 1 << 20
"""Far above any recipe or declaration that a person writes."""
_PART = r"""(?:[\w-]++|"[^"\n]*+"|'[^'\n]*+')"""
_LONG_KEY = re.compile(rf"(?<![\w-]){_PART}(?:[ \t]*+\.[ \t]*+{_PART}){{64}}")
"""A dotted key of more than 64 parts. `tomllib` takes memory by the square of their number, 10 GB
for a key of 100 kB."""


def check_regular_file(path: Path, what: str, most_bytes: int) -> None:
    """Raise InputError unless `path` is a regular file of at most `most_bytes` bytes.

    `what` names the file in the message, such as `spec file`.
    """
    try:
        status = path.stat()
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"{what} {path}: cannot be read ({reason})") from error
    if not stat.S_ISREG(status.st_mode):
        kind = "a folder" if stat.S_ISDIR(status.st_mode) else "a pipe or a device"
        raise InputError(f"{what} {path}: expected a regular file, got {kind}")
    if status.st_size > most_bytes:
        raise InputError(
            f"{what} {path}: expected at most {most_bytes:,} bytes, got {status.st_size:,}"
        )


def read_bytes(path: Path, what: str, most_bytes: int) -> bytes:
    """The bytes of a file. Raises InputError as `check_regular_file`."""
    check_regular_file(path, what, most_bytes)
    try:
        with path.open("rb") as file:
            data = file.read(most_bytes + 1)  # the file may grow while it is read
    except OSError as error:
        raise InputError(f"{what} {path}: cannot be read ({error.strerror})") from error
    if len(data) > most_bytes:
        raise InputError(f"{what} {path}: expected at most {most_bytes:,} bytes, and it is growing")
    return data


def read_text(path: Path, what: str, most_bytes: int = MAX_JSON_BYTES) -> str:
    """The text of a UTF-8 file. Raises InputError as `read_bytes`, and for other bytes."""
    try:
        return read_bytes(path, what, most_bytes).decode()
    except UnicodeDecodeError as error:
        raise InputError(f"{what} {path}: expected UTF-8 text ({error.reason})") from error


def read_json(path: Path, what: str, most_bytes: int = MAX_JSON_BYTES) -> Any:
    """The values of a JSON file.

    Raises InputError as `read_text`, and for what is no JSON or what JSON's grammar does not have
    or does not define: NaN and Infinity, numbers that overflow, and names that come twice in an
    object.
    """
    text = read_text(path, what, most_bytes)
    try:
        return json.loads(
            text,
            object_pairs_hook=_unique_names,
            parse_constant=_refuse_constant,
            parse_float=_finite_float,
        )
    except RecursionError as error:
        raise InputError(f"{what} {path}: nested too deeply to be read as JSON") from error
    except ValueError as error:
        raise InputError(f"{what} {path}: cannot be read as JSON ({error})") from error


def read_toml(path: Path, what: str) -> dict[str, Any]:
    """The values of a TOML file. Raises InputError as `read_text`, and for what is no TOML."""
    text = read_text(path, what, MAX_TOML_BYTES)
    try:
        return parse_toml(text)
    except ValueError as error:
        raise InputError(f"{what} {path}: cannot be read as TOML ({str(error)[:200]})") from error


def parse_toml(text: str) -> dict[str, Any]:
    """The values of a text in TOML. Raises ValueError for any other text."""
    if _LONG_KEY.search(text):
        raise ValueError("a key has more than 64 parts")
    try:
        return tomllib.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _unique_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise ValueError(f"the name {name[:40]!r} comes twice in one object")
            seen.add(name)
    return values


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a number in JSON")


def _finite_float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text[:40]} is too large")
    return value
