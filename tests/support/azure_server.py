"""Microsoft's Azurite in a process of its own, for tests of stores in Azure containers.

Azurite is an npm package (MIT) and needs Node.js:

    npm install --global azurite@3.35.0

Without `azurite-blob` on the PATH, the tests that need it skip and say so.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import shutil
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import obstore
import pytest
from obstore.store import AzureStore

from tests.support.object_server import SECRET, ObjectServer, free_port, running

CONTAINER = "archive"
ACCOUNT = "vocotests"
KEY = base64.b64encode(SECRET.encode()).decode()
VERSION = "2021-12-02"
"""Of the protocol."""
LOG_DELAY_S = 0.1


@dataclass(frozen=True)
class AzureServer(ObjectServer):
    """Azurite, whose bucket is a container."""

    root = f"az://{CONTAINER}"
    endpoint_variable = "AZURE_STORAGE_ENDPOINT"
    secrets = (SECRET, KEY)

    @property
    def environment(self) -> dict[str, str]:
        return {
            "AZURE_STORAGE_ENDPOINT": self.endpoint,
            "AZURE_STORAGE_ACCOUNT_NAME": ACCOUNT,
            "AZURE_STORAGE_ACCOUNT_KEY": KEY,
        }

    def objects(self, prefix: str) -> dict[str, bytes]:
        client = AzureStore(
            CONTAINER,
            account_name=ACCOUNT,
            account_key=KEY,
            endpoint=self.endpoint,
            client_options={"allow_http": True},
        )
        paths = [meta["path"] for page in obstore.list(client, prefix) for meta in page]
        return {
            path.removeprefix(prefix).lstrip("/"): bytes(obstore.get(client, path).bytes())
            for path in paths
        }

    def requests(self) -> list[tuple[str, str]]:
        size = -1
        while size != (size := self.log.stat().st_size):
            time.sleep(LOG_DELAY_S)  # Azurite logs a request after it has answered
        return self.logged()


def serve(folder: Path) -> Iterator[AzureServer]:
    """Start a server with one empty container; stop it at the end. Skips where it is missing."""
    program = shutil.which("azurite-blob")
    if program is None:
        pytest.skip("no azurite-blob on the PATH: npm install --global azurite@3.35.0")
    port = free_port()
    server = AzureServer(f"http://127.0.0.1:{port}/{ACCOUNT}", folder / "requests.log")
    words: list[str | Path] = [
        program,
        *("--blobHost", "127.0.0.1", "--blobPort", str(port)),
        *("--location", folder / "blobs", "--disableTelemetry", "--skipApiVersionCheck"),
    ]
    with running(words, port, server.log, {"AZURITE_ACCOUNTS": f"{ACCOUNT}:{KEY}"}):
        _make_container(server)
        yield server


def _make_container(server: AzureServer) -> None:
    """The request Create Container, signed with the shared key."""
    date = datetime.now(UTC).strftime("%a, %d %b %Y %H:%M:%S GMT")
    text = "\n".join(
        [
            *("PUT", *[""] * 11),
            *(f"x-ms-date:{date}", f"x-ms-version:{VERSION}"),
            # The account twice, as it is part of the path of an emulator.
            *(f"/{ACCOUNT}/{ACCOUNT}/{CONTAINER}", "restype:container"),
        ]
    )
    request = urllib.request.Request(
        f"{server.endpoint}/{CONTAINER}?restype=container",
        method="PUT",
        headers={
            "x-ms-date": date,
            "x-ms-version": VERSION,
            "Content-Length": "0",
            "Authorization": f"SharedKey {ACCOUNT}:{_signature(text)}",
        },
    )
    with urllib.request.urlopen(request) as answer:
        assert answer.status == 201


def _signature(text: str) -> str:
    code = hmac.new(base64.b64decode(KEY), text.encode(), hashlib.sha256)
    return base64.b64encode(code.digest()).decode()
