"""What an object store answers, said as one line: what is wrong, and what to do about it."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager

from obstore import exceptions

from voco_data.errors import InputError, StoreUnreachable

CREDENTIALS = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give the machine a role"
_METADATA_SERVICE = "/latest/api/token"
"""Where the library asks for a machine's role when it was given no keys."""
_NO_ANSWER = ("kind: Connect", "kind: Timeout", "kind: Interrupted", "kind: Request")
_CODE = re.compile(r"<Code>(\w+)</Code>")


@contextmanager
def translate_obstore_errors(where: str) -> Iterator[None]:
    """Turn errors of obstore that may arise inside into ours; `where` is the URL.

    InputError: no such bucket, no credentials, not allowed. StoreUnreachable: no answer.
    FileNotFoundError: no such object. OSError: all else. Failed conditions pass through.
    """
    try:
        yield
    except FileNotFoundError as error:
        if "NoSuchBucket" in str(error):
            raise _no_bucket(where) from error
        raise FileNotFoundError(errno.ENOENT, "no such object", where) from error
    except (exceptions.AlreadyExistsError, exceptions.PreconditionError):
        raise
    except (exceptions.UnauthenticatedError, exceptions.PermissionDeniedError) as error:
        code = _CODE.search(str(error))
        raise InputError(
            f"{where}: the object store refuses access ({code[1] if code else 'denied'}); "
            f"{CREDENTIALS} that may read and write there"
        ) from error
    except exceptions.BaseError as error:
        raise _other(where, str(error)) from error


def _other(where: str, text: str) -> Exception:
    if "NoSuchBucket" in text:
        return _no_bucket(where)
    if _METADATA_SERVICE in text:
        return InputError(f"{where}: no credentials were found; {CREDENTIALS}")
    if any(kind in text for kind in _NO_ANSWER):
        return StoreUnreachable(
            f"{where}: the object store does not answer; check AWS_ENDPOINT_URL, AWS_REGION and "
            "the network, then run the same command again"
        )
    said, _, body = text.partition("\n\nDebug source")[0].partition("<?xml")
    code = _CODE.search(body)
    return OSError(errno.EIO, " ".join(f"{said} {code[1] if code else ''}".split()), where)


def _no_bucket(where: str) -> InputError:
    return InputError(f"{where}: there is no such bucket; make it, or check the URL and the region")
