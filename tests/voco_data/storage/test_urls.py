"""A text is a path, the URL of an object store that is supported, or refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.object_server import use
from voco_data.errors import InputError
from voco_data.storage.local import LocalStorage
from voco_data.storage.object_store_client import SERVICES
from voco_data.storage.urls import (
    BUCKET_SCHEMES,
    is_url,
    open_storage,
    parent_storage,
    path_or_url,
)


def test_a_url_is_no_path() -> None:
    for url in ("s3://b/p", "az://b/p"):
        assert is_url(url)
        assert path_or_url(url) == url
    for path in ("s3/b", "/data/s3://b", "./s3://b", "x", "C:/data", Path("s3://b")):
        assert not is_url(path)
        assert path_or_url(path) == Path(path)


@pytest.mark.parametrize("scheme", BUCKET_SCHEMES)
def test_parts_of_a_url(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, {"AZURE_STORAGE_ACCOUNT_NAME": "a"})
    assert str(parent_storage(f"{scheme}b/p/store.zarr/")) == f"{scheme}b/p"
    assert open_storage(f"{scheme}b/p/").name == "p"
    assert open_storage(f"{scheme}b").name == "b"
    assert str(open_storage(f"{scheme}b") / "c") == f"{scheme}b/c"
    assert open_storage("b") == LocalStorage(Path("b"))


@pytest.mark.parametrize("scheme", ["gs", "abfss", "azure", "file", "https", "S3"])
def test_other_object_stores_are_refused_by_name(scheme: str) -> None:
    url = f"{scheme}://b/p"
    assert path_or_url(url) == url
    with pytest.raises(InputError, match=r"expected a folder, s3://BUCKET/PREFIX or az://"):
        open_storage(url)


def test_schemes_are_those_of_the_clients() -> None:
    """`urls` does not import obstore, so it has the schemes of the clients once more."""
    assert set(BUCKET_SCHEMES) == set(SERVICES)
