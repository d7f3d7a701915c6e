"""An index's headers by pydicom alone: the same values as ours, file by file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path


def prepare(folder: Path, out: Path) -> Callable[[], None]:  # noqa: ARG001
    """The header of every file in `folder`."""
    from voco_data.dicom.header import parse_header, read_dataset
    from voco_data.dicom.stack_key import stack_key

    paths = sorted(folder.iterdir())

    def run() -> None:
        for path in paths:
            dataset = read_dataset(path, pixels=False)
            parse_header(dataset, path)
            stack_key(dataset)

    return run
