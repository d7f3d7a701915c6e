"""An index's headers, our way."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from voco_data.dicom.series.header_scan import header_scanner


def prepare(folder: Path, out: Path) -> Callable[[], None]:  # noqa: ARG001
    """The header of every file in `folder`."""
    paths = sorted(folder.iterdir())
    reader = header_scanner()

    def run() -> None:
        for path in paths:
            if reader.header(path) is None:
                raise RuntimeError(f"{path.name} is not read the quick way")

    return run
