"""Holds a Dask worker up in a commit until a test lets it go on. A preload of `dask worker`.

`VOCO_GATE` is a folder. A worker that comes to the gate makes a file `waiting-<process id>` there,
and goes on once there is a file `open`; `refused-<process id>` says why its commit was refused.
`VOCO_GATE_AT` says where the gate is: `commit`, with a series decoded and nothing written, or
`record`, between chunk and record.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from voco_data.errors import StoreBusy
from voco_data.executors import worker
from voco_data.store import writer


def gated(function: Callable[..., Any]) -> Callable[..., Any]:
    gate = Path(os.environ["VOCO_GATE"])

    def wait_and_call(*arguments: Any) -> Any:
        (gate / f"waiting-{os.getpid()}").touch()
        while not (gate / "open").exists():
            time.sleep(0.01)
        try:
            return function(*arguments)
        except StoreBusy as error:
            (gate / f"refused-{os.getpid()}").write_text(str(error))
            raise

    return wait_and_call


def dask_setup(_worker: object) -> None:
    if os.environ["VOCO_GATE_AT"] == "commit":
        worker.commit_volume = gated(worker.commit_volume)
    else:
        writer.write_record = gated(writer.write_record)
