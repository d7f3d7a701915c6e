"""Keys of S3 in a file: the credentials file of Amazon's tools.

A container and a service of systemd then keep the keys out of their environment, which others can
list. Form: https://docs.aws.amazon.com/cli/latest/userguide/cli-configure-files.html
"""

from __future__ import annotations

import configparser
import os
from pathlib import Path
from typing import Final

from voco_data.errors import InputError

FILE_VARIABLE: Final = "AWS_SHARED_CREDENTIALS_FILE"
KEYS: Final = ("aws_access_key_id", "aws_secret_access_key", "aws_session_token")
"""Entries of a profile, and in capital letters the variables with the same meaning."""


def read_credentials_file() -> dict[str, str]:
    """Variables and values of the file that AWS_SHARED_CREDENTIALS_FILE names; empty without it.

    The profile is that of AWS_PROFILE, else `default`. As in Amazon's tools, nothing of the file is
    used where AWS_ACCESS_KEY_ID is set.

    Raises InputError if the file cannot be read or lacks the profile. No message shows its content.
    """
    path = os.environ.get(FILE_VARIABLE)
    if not path or os.environ.get("AWS_ACCESS_KEY_ID"):
        return {}
    profile = os.environ.get("AWS_PROFILE") or "default"
    parser = configparser.RawConfigParser(default_section="")  # [default] is a profile as others
    try:
        parser.read_string(Path(path).read_text())
    except (OSError, ValueError, configparser.Error) as error:
        raise InputError(
            f"{FILE_VARIABLE}: expected a credentials file at {path}, cannot read it "
            f"({type(error).__name__})"
        ) from None  # errors of the parser quote lines of the file
    entries = dict(parser[profile]) if profile in parser else {}
    missing = [key for key in KEYS[:2] if not entries.get(key)]
    if missing:
        raise InputError(
            f"{FILE_VARIABLE}: expected {' and '.join(missing)} in section [{profile}] of {path}"
        )
    return {key.upper(): entries[key] for key in KEYS if entries.get(key)}
