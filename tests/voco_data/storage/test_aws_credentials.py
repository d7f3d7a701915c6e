"""Keys of S3 in a file, against a real server, and what is said of files that do not fit."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.object_server import SECRET, use
from tests.support.s3_server import BUCKET, S3Server
from voco_data.errors import InputError
from voco_data.storage import object_store_client
from voco_data.storage.object_store_client import S3, Access
from voco_data.storage.urls import open_storage

KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE")


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The credentials file, which does not exist yet. The environment has no keys."""
    for name in KEYS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    return tmp_path / "credentials"


def keys() -> dict[str, str]:
    settings = dict(Access.from_environment(S3).settings)
    return {name: settings[name] for name in settings if name != "region"}


def test_a_bucket_is_reached_with_keys_of_a_file(
    file: Path, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, s3_server.environment)
    for name in KEYS[:2]:
        monkeypatch.delenv(name)
    text = f"[default]\naws_access_key_id = test\naws_secret_access_key = {SECRET}\n"
    file.write_text(text)
    storage = open_storage(f"s3://{BUCKET}/from-a-file")
    storage.write("a", b"one")  # type: ignore[attr-defined]
    assert s3_server.objects("from-a-file") == {"a": b"one"}


def test_the_profile_is_that_of_the_environment(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.write_text(
        "[default]\naws_access_key_id=A\naws_secret_access_key=100%B\n"
        "[other]\naws_access_key_id=C\naws_secret_access_key=D\naws_session_token=E\n"
    )
    assert keys() == {"access_key_id": "A", "secret_access_key": "100%B"}
    monkeypatch.setenv("AWS_PROFILE", "other")
    assert keys() == {"access_key_id": "C", "secret_access_key": "D", "session_token": "E"}


def test_keys_of_the_environment_come_first_and_nothing_is_mixed(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.write_text(
        "[default]\naws_access_key_id=A\naws_secret_access_key=B\naws_session_token=C\n"
    )
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "mine")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "too")
    assert keys() == {"access_key_id": "mine", "secret_access_key": "too"}


def test_azure_does_not_read_the_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "account")
    assert (
        Access.from_environment(object_store_client.AZURE).endpoint is None
    )  # the file is missing


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"cannot read it \(FileNotFoundError\)"),
        ("aws_secret_access_key = hidden\n", r"cannot read it \(MissingSectionHeaderError\)"),
        ("[default]\nhidden\n", r"cannot read it \(ParsingError\)"),
        ("[work]\naws_secret_access_key = hidden\n", r"in section \[default\] of "),
        ("[default]\naws_secret_access_key = hidden\n", "expected aws_access_key_id in section"),
    ],
)
def test_a_file_that_does_not_fit_is_one_line_without_its_content(
    file: Path, text: str | None, message: str
) -> None:
    if text is not None:
        file.write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        keys()
    assert "hidden" not in str(caught.value)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)
