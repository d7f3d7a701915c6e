"""A champion, its cohort in a store, and patients who came in later, for the watch of drift."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from tests.support.qc_cohort import kept, refused
from tests.support.small_stores import make_store, random_volumes
from voco_data.qc import ledger
from voco_data.qc.ledger import LedgerRow
from voco_data.selection.pinned_rows import PinnedRows
from voco_data.storage.local import LocalStorage
from voco_data.store.record import Record
from voco_models.tracking.champion_changes import record_run
from voco_models.tracking.champions import RetrainedRun
from voco_models.tracking.promotion import Verdict

PINNED = "2026-03-01T12:00:00Z"
RUN = "retrain-20260301-030000-00000000000a"
SYNTAXES = ("1.2.840.10008.1.2.1", "1.2.840.10008.1.2.5")


def make_drift_site(
    folder: Path,
    *,
    cohort: int = 60,
    new: int = 40,
    shift_hu: float = 0.0,
    refused_share: float = 0.1,
    change: Callable[[Record], Record] = lambda record: record,
) -> Path:
    """Write stores and runs below `folder`; returns RUNS.

    Of the `new` patients, the HU are shifted, `change` makes another record, and this share had a
    refused series; of the cohort 10 % had one.
    """
    rng = np.random.default_rng(7)
    medians = rng.normal(40, 15, cohort + new)

    def vary(record: Record) -> Record:
        number = int(record.source)
        later = number >= cohort
        hu = float(medians[number]) + (shift_hu if later else 0.0)
        spacing = (2.5 if number % 3 else 1.25, 0.7 + 0.01 * (number % 11), 0.75)
        varied = replace(
            record,
            spacing_mm=spacing,
            hu_p5=hu - 140,
            hu_median=hu,
            hu_p95=hu + 130,
            transfer_syntax=SYNTAXES[number % 2],
            canonical_shape=(180 + number % 20, 8, 8),
        )
        return change(varied) if later else varied

    root, runs = folder / "stores", folder / "runs"
    store = make_store(root, random_volumes(cohort + new, (2, 8, 8)), change=vary)
    pins = PinnedRows.of_stores([store])
    (runs / RUN / "finetune").mkdir(parents=True)
    name, rows = next(iter(pins.stores.items()))
    PinnedRows({name: {row: digest for row, digest in rows.items() if row < cohort}}).write(
        runs / RUN / "rows.json"
    )
    values = {"stores": {"finetune": str(store.storage)}, "pinned": PINNED}
    (runs / RUN / "pins.json").write_text(json.dumps(values))
    finished = RetrainedRun(RUN, f"{RUN}/pretrain", "2026-03-02T00:00:00Z", {})
    record_run(runs, finished, Verdict(True, "the first"), None)
    before = write_ledger(root, "20260201T000000", cohort, round(0.1 * cohort))
    write_ledger(root, "20260401T000000", new, round(refused_share * new), before)
    return runs


def write_ledger(
    root: Path, ended: str, patients: int, with_refusal: int, before: list[LedgerRow] | None = None
) -> list[LedgerRow]:
    """The ledger of a run; the first `with_refusal` of its new patients have a refused series, too.

    `before` are rows that it lists again, as a run over the whole archive does.
    """
    rows = list(before or [])
    for number in range(patients):
        own = f"patient-{ended}-{number}"
        rows.append(replace(kept(number), patient_id=own, source=f"{own}/a"))
        if number < with_refusal:
            rows.append(replace(refused(number), patient_id=own, source=f"{own}/b"))
    ledger.write(LocalStorage(root / "runs" / f"{ended}-preprocess-0123ab"), rows)
    return rows
