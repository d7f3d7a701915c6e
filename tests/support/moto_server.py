"""moto's S3 server, one request at a time: `python -m tests.support.moto_server PORT`.

moto checks the condition of a conditional write (If-Match, If-None-Match) and then writes, without
a lock between the two. Under load, two requests may both pass the check. S3 itself is atomic here.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterable
from io import BytesIO
from typing import Any

from moto.moto_server.werkzeug_app import (
    DomainDispatcherApplication,
    MotoRequestHandler,
    create_backend_app,
)
from werkzeug.serving import run_simple

Application = Callable[[dict[str, Any], Any], Iterable[bytes]]


def one_at_a_time(application: Application) -> Application:
    """The application, with a lock around each request.

    The body is read before the lock is taken: a client that is stopped while it sends must not
    block the others.
    """
    lock = threading.Lock()

    def handle(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        length = int(environ.get("CONTENT_LENGTH") or 0)
        environ["wsgi.input"] = BytesIO(environ["wsgi.input"].read(length))
        with lock:
            return list(application(environ, start_response))

    return handle


if __name__ == "__main__":
    run_simple(
        "127.0.0.1",
        int(sys.argv[1]),
        one_at_a_time(DomainDispatcherApplication(create_backend_app)),
        threaded=True,
        request_handler=MotoRequestHandler,
    )
