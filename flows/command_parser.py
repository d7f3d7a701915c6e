"""The parser of the command line: errors of one line, and subcommands with `--json`."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from importlib.metadata import version
from typing import Any, NoReturn

from flows.terminal_text import MAX_LINE, escape_controls, shorten

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
        line = escape_controls(shorten(" ".join(message.split()), MAX_LINE))
        self.exit(USAGE_ERROR, f"{self.prog}: error: {line} (see {self.prog} --help)\n")


class PrintVersion(argparse.Action):
    """`--version`. The version is read only when it is needed."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any, **__: Any) -> NoReturn:
        """Print the installed version and stop."""
        print(f"voco {version('voco')}")
        parser.exit()


def add_command(commands: Any, name: str, help_line: str) -> OneLineParser:
    """Add a subcommand that prints text, or with `--json` one object as the last line."""
    parser: OneLineParser = commands.add_parser(
        name, help=help_line, description=help_line, allow_abbrev=False
    )
    parser.add_argument(
        "--json", action="store_true", help="one JSON object as the last line of stdout"
    )
    return parser
