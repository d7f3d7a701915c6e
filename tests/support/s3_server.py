"""A real S3 server in a process of its own, for tests of stores in buckets."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3

from tests.support.object_server import SECRET, ObjectServer, free_port, running
from tests.support.project import PROJECT

BUCKET = "archive"
REGION = "eu-central-1"


@dataclass(frozen=True)
class S3Server(ObjectServer):
    """moto's server."""

    root = f"s3://{BUCKET}"
    endpoint_variable = "AWS_ENDPOINT_URL"

    @property
    def environment(self) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": SECRET,
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
            aws_secret_access_key=SECRET,
        )

    def objects(self, prefix: str) -> dict[str, bytes]:
        client, found = self.client, {}
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix):
            for item in page.get("Contents", ()):
                body = client.get_object(Bucket=BUCKET, Key=item["Key"])["Body"].read()
                found[item["Key"].removeprefix(prefix).lstrip("/")] = body
        return found


def serve(folder: Path) -> Iterator[S3Server]:
    """Start a server with one empty bucket; stop it at the end."""
    port = free_port()
    server = S3Server(f"http://127.0.0.1:{port}", folder / "requests.log")
    words = [sys.executable, "-W", "ignore", "-m", "tests.support.moto_server", str(port)]
    with running(words, port, server.log, {"PYTHONPATH": str(PROJECT)}):
        server.client.create_bucket(
            Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": REGION}
        )
        yield server
