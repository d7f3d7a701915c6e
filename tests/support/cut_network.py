"""A way to a server that a test can cut: a proxy on loopback."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

CHUNK = 1 << 16


class CutNetwork:
    """Passes connections on to `port`, until it is cut; then it drops them and takes no others."""

    def __init__(self, port: int) -> None:
        self._target = ("127.0.0.1", port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._is_cut = False
        self._puts_left: int | None = None
        self.was_cut = threading.Event()
        self.refused = 0
        """Connections that came while it was cut."""
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def cut_at_put(self, number: int) -> None:
        """Cut it when the request PUT of this number, from 1, arrives: the server never gets it."""
        self._puts_left = number

    def heal(self) -> None:
        """Pass connections on again."""
        self._is_cut = False

    def close(self) -> None:
        self._listener.close()
        self._drop()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:  # closed
                return
            if self._is_cut:
                self.refused += 1
                client.close()
                continue
            server = socket.create_connection(self._target)
            with self._lock:
                self._open |= {client, server}
            for source, sink in ((client, server), (server, client)):
                threading.Thread(target=self._pass_on, args=(source, sink), daemon=True).start()

    def _pass_on(self, source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(CHUNK):
                if data.startswith(b"PUT ") and self._counts_down():
                    self._is_cut = True
                    self._drop()
                    self.was_cut.set()
                    return
                sink.sendall(data)
        except OSError:  # one of the two has closed it
            pass
        finally:
            self._shut(source, sink)

    def _counts_down(self) -> bool:
        with self._lock:
            if self._puts_left is None:
                return False
            self._puts_left -= 1
            if self._puts_left:
                return False
            self._puts_left = None
            return True

    def _drop(self) -> None:
        with self._lock:
            dropped, self._open = self._open, set()
        self._shut(*dropped)

    def _shut(self, *connections: socket.socket) -> None:
        for connection in connections:
            with contextlib.suppress(OSError):  # shut already
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()
            with self._lock:
                self._open.discard(connection)


@contextmanager
def network_to(port: int) -> Iterator[CutNetwork]:
    """A way to the server on `port` of loopback."""
    network = CutNetwork(port)
    try:
        yield network
    finally:
        network.close()
