"""The `voco` command: parse the options, call one stage, print its summary, return an exit code.

    0    done
    1    an error: one line if it is a known kind, a traceback for a bug
    2    bad usage or input: one line
    130  stopped by Ctrl-C: what is finished stays, a rerun continues

Messages and progress go to stderr; the summary goes to stdout, with `--json` as one line.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections.abc import Sequence

from flows.command_options import build_parser
from flows.summary import format_lines, to_json_values
from flows.terminal_messages import EscapingFormatter, escape_library_messages
from flows.terminal_text import MAX_LINE, escape_controls, shorten
from flows.verbs import VERBS
from voco_data.errors import VocoError
from voco_data.temporary_folders import sweep

FAILED = 1
INTERRUPTED = 130
TRAINING = ("pretrain", "finetune", "project")
"""Subcommands that `torchrun` may start in several processes."""
PROBLEMS = {"drift": "alarms"}
"""Subcommand to the entry of its summary that makes it a failure, if it is not `problems`."""
_OUR_PACKAGES = ("voco_data", "voco_models", "flows")


class _MessageFormatter(EscapingFormatter):
    """Formats a record as its message, after the level for warnings and errors."""

    def format(self, record: logging.LogRecord) -> str:
        message = super().format(record)
        if record.levelno < logging.WARNING:
            return message
        return f"{record.levelname.lower()}: {message}"


def _other_process(command: str) -> str:
    """The number of this process, if it trains beside a first one by `torchrun`; else empty."""
    number = os.environ.get("RANK", "0")
    trains = command in TRAINING and "WORLD_SIZE" in os.environ
    return number if trains and number != "0" else ""


def _log_to_stderr(command: str) -> None:
    """Show what voco logs from INFO on, and what other libraries log from WARNING on.

    Of several processes, the others than the first show errors only.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_MessageFormatter())
    for name in _OUR_PACKAGES:
        logger = logging.getLogger(name)
        logger.setLevel(logging.ERROR if _other_process(command) else logging.INFO)
        logger.handlers = [handler]
        logger.propagate = False


def _run(args: argparse.Namespace) -> int:
    """Call the stage and print its summary. A summary with problems is a failure."""
    summary = to_json_values(VERBS[args.command](args))
    if _other_process(args.command):
        pass
    elif args.json:
        print(json.dumps(summary, allow_nan=False))
    else:
        print(escape_controls("\n".join(format_lines(summary))))
    return FAILED if summary.get(PROBLEMS.get(args.command, "problems")) else 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand and return the exit code. Usage errors raise SystemExit(2)."""
    args = build_parser().parse_args(argv)
    if argv is None:  # else main was called from Python, and the hooks are the caller's
        escape_library_messages()
    _log_to_stderr(args.command)
    sweep()
    name = f"voco {args.command}"
    if _other_process(args.command):
        name += f" (process {_other_process(args.command)})"
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
    """Whether an error is a bug: a module of voco is missing, not one of another package."""
    missing = error.name if isinstance(error, ModuleNotFoundError) else None
    return missing is not None and missing.partition(".")[0] in _OUR_PACKAGES


def _one_line(error: Exception) -> str:
    """The message of an error on one line; for a missing package, with how to install it."""
    message = shorten(" ".join(str(error).split()), MAX_LINE)
    text = escape_controls(message) or type(error).__name__
    if isinstance(error, ModuleNotFoundError):
        text += "; install what this stage needs: pip install 'voco[ingest,train,orchestrate]'"
    return text


if __name__ == "__main__":
    sys.exit(main())
