"""The `voco` command: parse, call one stage, print its summary, give the exit code.

    0    done
    1    something went wrong: one line for what we can name, a traceback for a bug
    2    bad usage or input: one line
    130  stopped by Ctrl-C: what is finished stays, a rerun goes on

People's text and progress go to stderr; stdout holds the summary, with `--json` as one line.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Sequence

from flows.options import build_parser
from flows.summary import lines, plain
from flows.verbs import VERBS
from voco_data.errors import VocoError

FAILED = 1
INTERRUPTED = 130
_OUR_PACKAGES = ("voco_data", "voco_models", "flows")


class _Lines(logging.Formatter):
    """The bare message; warnings and worse say so first."""

    def format(self, record: logging.LogRecord) -> str:
        message = super().format(record)
        if record.levelno < logging.WARNING:
            return message
        return f"{record.levelname.lower()}: {message}"


def _log_to_stderr() -> None:
    """Show what the stages log at INFO, and nothing of other libraries below WARNING."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Lines())
    for name in _OUR_PACKAGES:
        logger = logging.getLogger(name)
        logger.setLevel(logging.INFO)
        logger.handlers = [handler]
        logger.propagate = False


def _run(args: argparse.Namespace) -> int:
    """Call the stage and print what it says. Problems that it found are no success."""
    summary = plain(VERBS[args.command](args))
    if args.json:
        print(json.dumps(summary, allow_nan=False))
    else:
        print("\n".join(lines(summary)))
    return FAILED if summary.get("problems") else 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand; returns the exit code. Usage errors leave by SystemExit(2)."""
    args = build_parser().parse_args(argv)
    _log_to_stderr()
    name = f"voco {args.command}"
    try:
        return _run(args)
    except KeyboardInterrupt:
        print(f"{name}: stopped; what is finished stays, a rerun goes on", file=sys.stderr)
        return INTERRUPTED
    except (VocoError, OSError, ModuleNotFoundError) as error:
        if args.debug or _is_a_bug(error):
            raise
        print(f"{name}: error: {_one_line(error)}", file=sys.stderr)
        return error.exit_code if isinstance(error, VocoError) else FAILED


def _is_a_bug(error: Exception) -> bool:
    """A module of our own that cannot be found is our mistake, not a missing package."""
    missing = error.name if isinstance(error, ModuleNotFoundError) else None
    return missing is not None and missing.partition(".")[0] in _OUR_PACKAGES


def _one_line(error: Exception) -> str:
    """What happened, on one line. A missing package is named with the sets that bring it."""
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, ModuleNotFoundError):
        text += "; install what this stage needs: pip install 'voco[ingest,train,orchestrate]'"
    return text


if __name__ == "__main__":
    sys.exit(main())
