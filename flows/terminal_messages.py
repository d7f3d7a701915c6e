"""What libraries print of themselves, made harmless for a terminal.

Libraries that read scans are silenced where they are imported: their messages quote headers.
"""

from __future__ import annotations

import logging
import sys
import threading
import traceback
import warnings
from types import TracebackType
from typing import TextIO

from flows.terminal_text import escape_controls


class EscapingFormatter(logging.Formatter):
    """Formats a record as usual, with escapes for control characters."""

    def format(self, record: logging.LogRecord) -> str:
        """The text of a record."""
        return escape_controls(super().format(record))


def escape_library_messages() -> None:
    """Escape control characters in warnings, unhandled records and tracebacks of this process."""
    warnings.showwarning = _show_warning
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(EscapingFormatter())
    sys.excepthook = _show_traceback
    threading.excepthook = lambda args: _show_traceback(
        args.exc_type, args.exc_value, args.exc_traceback
    )


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    text = warnings.formatwarning(message, category, filename, lineno, line)
    print(escape_controls(text), end="", file=file or sys.stderr)


def _show_traceback(
    kind: type[BaseException], error: BaseException | None, trace: TracebackType | None
) -> None:
    text = "".join(traceback.format_exception(kind, error, trace))
    print(escape_controls(text), end="", file=sys.stderr)
