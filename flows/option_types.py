"""The parser of the `voco` command, and the types of its options."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn

from voco_data.storage import is_url

USAGE_ERROR = 2


class OneLineParser(argparse.ArgumentParser):
    """A parser whose errors are one line, without the usage."""

    find_problem: Callable[[argparse.Namespace], str | None] | None = None
    """What is wrong with options that are possible one by one, if anything."""

    def parse_known_args(  # type: ignore[override]
        self, args: Any = None, namespace: Any = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Parse as usual, then look for a problem of the options together."""
        parsed, rest = super().parse_known_args(args, namespace)
        problem = self.find_problem(parsed) if self.find_problem else None
        if problem is not None:
            self.error(problem)
        return parsed, rest

    def error(self, message: str) -> NoReturn:
        """Print the error and how to get help; exit code 2."""
        line = " ".join(message.split())
        self.exit(USAGE_ERROR, f"{self.prog}: error: {line} (see {self.prog} --help)\n")


class PrintVersion(argparse.Action):
    """`--version`. The version is read only when it is needed."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any, **__: Any) -> NoReturn:
        """Print the installed version and stop."""
        print(f"voco {version('voco')}")
        parser.exit()


def share(text: str) -> float:
    """A number between 0 and 1."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < 1:
        raise argparse.ArgumentTypeError(f"expected a number between 0 and 1, got {text!r}")
    return number


def positive_int(text: str) -> int:
    """An integer of at least 1."""
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number above 0, got {text!r}")
    return number


def whole_number(text: str) -> int:
    """An integer of at least 0."""
    if not text.isdecimal() or not text.isascii():
        raise argparse.ArgumentTypeError(f"expected a whole number, 0 or more, got {text!r}")
    return int(text)


def seconds(text: str) -> float:
    """A finite time of at least 0 seconds."""
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number < float("inf"):
        raise argparse.ArgumentTypeError(f"expected seconds, 0 or more, got {text!r}")
    return number


def local(text: str) -> Path:
    """A path of this machine."""
    if is_url(text):
        raise argparse.ArgumentTypeError(f"expected a path of this machine, got {text}")
    return Path(text)
