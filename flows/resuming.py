"""Whether a training stage goes on with a run folder or begins it."""

from __future__ import annotations

from pathlib import Path

from prefect.runtime import flow_run

from voco_data.storage.root import RUN_DESCRIPTION

PRETRAINED = "checkpoint.pt"
FINETUNED = RUN_DESCRIPTION
"""What the run folder of each stage holds from its beginning on."""


def stopped_before(marker: Path) -> bool:
    """Whether an earlier try of this very flow run was stopped and left `marker`.

    A run that crashed and is retried goes on; another run with the same folder is refused by the
    stage, as it should be.
    """
    tries: int = flow_run.run_count
    return tries > 1 and marker.exists()
