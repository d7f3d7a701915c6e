"""A real S3 server in a process of its own, for tests of stores in buckets."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest

BUCKET = "archive"
REGION = "eu-central-1"
PATIENCE_S = 60.0

_REQUEST = re.compile(r'"(GET|PUT|HEAD|DELETE|POST) (\S+) HTTP')


@dataclass(frozen=True)
class S3Server:
    """moto's server on a port of loopback. Its log is the record of every request."""

    endpoint: str
    log: Path

    @property
    def root(self) -> str:
        """URL of the bucket."""
        return f"s3://{BUCKET}"

    @property
    def environment(self) -> dict[str, str]:
        """What a user sets to work with it."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "very-secret-text",
            "AWS_REGION": REGION,
        }

    @property
    def client(self) -> Any:
        """Amazon's own client: what lies in a bucket according to another."""
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name=REGION,
            aws_access_key_id="test",
            aws_secret_access_key="very-secret-text",
        )

    def objects(self, prefix: str) -> dict[str, bytes]:
        """Every object below a prefix, by its key without the prefix."""
        client, found = self.client, {}
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix):
            for item in page.get("Contents", ()):
                body = client.get_object(Bucket=BUCKET, Key=item["Key"])["Body"].read()
                found[item["Key"].removeprefix(prefix).lstrip("/")] = body
        return found

    def requests(self) -> list[tuple[str, str]]:
        """Method and path of every request so far."""
        return [(found[1], found[2]) for found in _REQUEST.finditer(self.log.read_text())]

    def methods(self, since: int = 0) -> Counter[str]:
        """How many requests of each method, after the first `since`."""
        return Counter(method for method, _ in self.requests()[since:])


def serve(folder: Path) -> Iterator[S3Server]:
    """Start a server with one empty bucket; stop it at the end."""
    port = free_port()
    log = folder / "requests.log"
    with log.open("wb") as sink:
        process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "moto.server", "-H", "127.0.0.1", f"-p{port}"],
            stdout=sink,
            stderr=subprocess.STDOUT,
        )
    server = S3Server(f"http://127.0.0.1:{port}", log)
    try:
        wait_until_open(port, process)
        server.client.create_bucket(
            Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": REGION}
        )
        yield server
    finally:
        process.terminate()
        process.wait(PATIENCE_S)


def free_port() -> int:
    """A port of loopback that no program listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def wait_until_open(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        assert process.poll() is None, "the server did not start"
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    pytest.fail("the server does not listen")


def use(monkeypatch: pytest.MonkeyPatch, environment: Mapping[str, str]) -> None:
    """Set the environment of a user, and nothing that this machine brings."""
    for name in ("AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    for name in os.environ:
        if name.startswith("AZURE_"):
            monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
