"""Where processes connect to, and which names they look up: they write it to a file themselves."""

from __future__ import annotations

import ast
import ipaddress
import os
from pathlib import Path

from tests.support import watched_network
from tests.support.project import PROJECT

Event = tuple[str, object]
"""An event of Python's audit hooks, and its address."""


def watching(file: Path) -> dict[str, str]:
    """The environment in which a process, and all that it starts, write their events to `file`."""
    folder = str(Path(watched_network.__path__[0]))
    return {"PYTHONPATH": os.pathsep.join((folder, str(PROJECT))), "CONNECTIONS": str(file)}


def read_events(file: Path) -> list[Event]:
    """What the processes wrote down."""
    lines = file.read_text().splitlines() if file.exists() else []
    return [(event, ast.literal_eval(text)) for event, text in (x.split("\t") for x in lines)]


def is_of_this_machine(address: object) -> bool:
    """Whether an address is a path, or a name or number of the loopback interface."""
    if isinstance(address, str | bytes):
        return True  # a socket in the file system
    assert isinstance(address, tuple)
    host = address[0].decode() if isinstance(address[0], bytes) else address[0]
    if host in (None, "", "localhost"):
        return True
    try:
        number = ipaddress.ip_address(host)
    except ValueError:
        return False
    return number.is_loopback or number.is_unspecified  # 0.0.0.0 is listened on
