"""Writes all addresses that a process connects to or looks up to a file. Python loads it itself.

In the environment of a process: the folder of this file first in PYTHONPATH, and CONNECTIONS, the
file. Processes that it starts write to the same file.
"""

import os
import sys


def _watch(event: str, arguments: tuple[object, ...]) -> None:
    if event == "socket.connect":
        address: object = arguments[1]
    elif event == "socket.getaddrinfo":
        address = arguments[:2]
    else:
        return
    line = f"{event}\t{address!r}\n".encode(errors="replace")
    file = os.open(os.environ["CONNECTIONS"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        os.write(file, line)
    finally:
        os.close(file)


if "CONNECTIONS" in os.environ:
    sys.addaudithook(_watch)
