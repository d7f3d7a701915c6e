"""Clients of object stores: the supported services, their settings, and what their errors mean."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from obstore import exceptions
from obstore.store import from_url

from voco_data.errors import InputError, StoreUnreachable
from voco_data.storage.aws_credentials import read_credentials_file

if TYPE_CHECKING:
    from obstore.store import ClientConfig, ObjectStore, RetryConfig

FIRST_RETRIES = 6
"""Retries, in a few seconds, of a request to a server that has not answered this process yet.

An address that is wrong is then told soon.
"""
RETRIES = 1000
RETRY_SECONDS = 60
"""A server that has answered before, and does not now, is waited for so long."""
MAX_PAUSE_SECONDS = 5
REQUEST_SECONDS = 300
"""Limit of one request: a large catalogue over a slow line."""

_ROLE_REQUESTS = ("/latest/api/token", "/metadata/identity/oauth2/token")
"""Where obstore asks for the role of the machine, when it was given no credentials."""
_NO_ANSWER = ("kind: Connect", "kind: Timeout", "kind: Interrupted", "kind: Request")
_REFUSED = ("status code: 401", "status code: 403")
_NO_BUCKET = ("NoSuchBucket", "ContainerNotFound", "The specified container does not exist")
_CODE = re.compile(r"<Code>(\w+)</Code>")


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting of obstore, and the environment variables that set it, the first one first."""

    name: str
    variables: tuple[str, ...]
    default: str | None = None
    required: bool = False


@dataclass(frozen=True, slots=True)
class Service:
    """A kind of object store."""

    scheme: str
    url_form: str
    """What its URLs look like, for messages."""
    endpoint_variables: tuple[str, ...]
    settings: tuple[Setting, ...]
    bucket_advice: str
    """Advice for a bucket that does not exist."""
    credentials_advice: str
    connection_advice: str


S3 = Service(
    scheme="s3://",
    url_form="s3://BUCKET/PREFIX",
    endpoint_variables=("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"),
    settings=(
        Setting("region", ("AWS_REGION", "AWS_DEFAULT_REGION"), default="us-east-1"),
        Setting("access_key_id", ("AWS_ACCESS_KEY_ID",)),
        Setting("secret_access_key", ("AWS_SECRET_ACCESS_KEY",)),
        Setting("session_token", ("AWS_SESSION_TOKEN",)),
    ),
    bucket_advice="there is no such bucket; make it, or check the URL and the region",
    credentials_advice=(
        "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_SHARED_CREDENTIALS_FILE, or give "
        "the machine a role"
    ),
    connection_advice="check AWS_ENDPOINT_URL, AWS_REGION and the network",
)
AZURE = Service(
    scheme="az://",
    url_form="az://CONTAINER/PREFIX",
    endpoint_variables=("AZURE_STORAGE_ENDPOINT",),
    settings=(
        Setting("account_name", ("AZURE_STORAGE_ACCOUNT_NAME",), required=True),
        Setting("account_key", ("AZURE_STORAGE_ACCOUNT_KEY",)),
    ),
    bucket_advice="there is no such container; make it, or check the URL and the account",
    credentials_advice="set AZURE_STORAGE_ACCOUNT_KEY, or give the machine an identity",
    connection_advice="check AZURE_STORAGE_ACCOUNT_NAME, AZURE_STORAGE_ENDPOINT and the network",
)
SERVICES = {service.scheme: service for service in (S3, AZURE)}


@dataclass(frozen=True, slots=True)
class Access:
    """How to reach an object store. Pickled with a storage; its `repr` shows no secrets."""

    scheme: str
    endpoint: str | None
    """URL of the service; None for that of Amazon, or of the Azure account."""
    settings: tuple[tuple[str, str], ...] = field(repr=False)
    """Names and values for obstore. It finds the role of the machine if no keys are among them."""

    @classmethod
    def from_environment(cls, service: Service) -> Access:
        """Read the variables that other tools of the service read too. Raises InputError."""
        variables = {**os.environ, **(read_credentials_file() if service is S3 else {})}
        endpoint = _first_value_of(service.endpoint_variables, variables)
        if endpoint is not None and not endpoint.startswith(("https://", "http://")):
            raise InputError(
                f"{service.endpoint_variables[-1]}: expected https://HOST or http://, "
                f"got {endpoint!r}"
            )
        settings = []
        for setting in service.settings:
            value = _first_value_of(setting.variables, variables) or setting.default
            if value is not None:
                settings.append((setting.name, value))
            elif setting.required:
                raise InputError(f"{service.url_form} needs {setting.variables[0]}: set it")
        return cls(service.scheme, endpoint, tuple(settings))

    @property
    def service(self) -> Service:
        """The kind of object store."""
        return SERVICES[self.scheme]


@lru_cache(maxsize=16)
def open_client(
    bucket: str, access: Access, timeout_s: float | None = None, *, has_answered: bool = False
) -> ObjectStore:
    """The client of this process for one bucket: it keeps connections, and threads share it.

    With `timeout_s` a request, its retries included, ends after so long. A server that has answered
    before is given `RETRY_SECONDS` to come back. Raises InputError for
    settings that are not valid.
    """
    config: Any = dict(access.settings)  # a TypedDict of obstore, by the service
    if access.endpoint is not None:
        config["endpoint"] = access.endpoint
    client_options: ClientConfig = {
        # Plain http only where the address that the user gave says so.
        "allow_http": access.endpoint is not None and access.endpoint.startswith("http://"),
        "timeout": timedelta(seconds=timeout_s or REQUEST_SECONDS),
    }
    retry_config: RetryConfig = {
        "max_retries": RETRIES if has_answered else FIRST_RETRIES,
        "retry_timeout": timedelta(seconds=timeout_s or RETRY_SECONDS),
        "backoff": {
            "init_backoff": timedelta(milliseconds=100),
            "max_backoff": timedelta(seconds=MAX_PAUSE_SECONDS),
            "base": 2,
        },
    }
    url = f"{access.scheme}{bucket}"
    try:
        client: ObjectStore = from_url(
            url, config=config, client_options=client_options, retry_config=retry_config
        )
    except exceptions.BaseError as error:
        variables = ", ".join(setting.variables[0] for setting in access.service.settings)
        raise InputError(
            f"{url}: the settings are not valid ({_summary(str(error))}); check {variables}"
        ) from error
    return client


@contextmanager
def translate_obstore_errors(url: str, service: Service) -> Iterator[None]:
    """Turn errors of obstore into errors of voco whose text is one line that names `url`.

    Raises InputError for a bucket that does not exist and for credentials that are missing or
    refused, StoreUnreachable where the server does not answer, FileNotFoundError for an object
    that does not exist, and OSError for all else. Failed conditions pass through.
    """
    try:
        yield
    except FileNotFoundError as error:
        if any(code in str(error) for code in _NO_BUCKET):
            raise InputError(f"{url}: {service.bucket_advice}") from error
        raise FileNotFoundError(errno.ENOENT, "no such object", url) from error
    except (exceptions.AlreadyExistsError, exceptions.PreconditionError):
        raise
    except (exceptions.UnauthenticatedError, exceptions.PermissionDeniedError) as error:
        raise _access_error(url, str(error), service) from error
    except exceptions.BaseError as error:
        raise _error_of(url, str(error), service) from error


def _error_of(url: str, text: str, service: Service) -> Exception:
    if any(code in text for code in _NO_BUCKET):
        return InputError(f"{url}: {service.bucket_advice}")
    if any(path in text for path in _ROLE_REQUESTS):
        return InputError(f"{url}: no credentials were found; {service.credentials_advice}")
    if any(status in text for status in _REFUSED):
        return _access_error(url, text, service)
    if any(kind in text for kind in _NO_ANSWER):
        return StoreUnreachable(
            f"{url}: the object store does not answer; {service.connection_advice}, then run the "
            "same command again"
        )
    return OSError(errno.EIO, _summary(text), url)


def _summary(text: str) -> str:
    """One line of an error of obstore: what failed, and the code of the server."""
    summary, _, body = text.partition("\n\nDebug source")[0].partition("<?xml")
    code = _CODE.search(body)
    return " ".join(f"{summary} {code[1] if code else ''}".split())


def _access_error(url: str, text: str, service: Service) -> InputError:
    code = _CODE.search(text)
    return InputError(
        f"{url}: the object store refuses access ({code[1] if code else 'denied'}); "
        f"{service.credentials_advice} that may read and write there"
    )


def _first_value_of(names: tuple[str, ...], variables: Mapping[str, str]) -> str | None:
    return next((value for name in names if (value := variables.get(name))), None)
