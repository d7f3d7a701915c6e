"""Runs over a small archive on the disk of `power_loss`, and what must hold after a power cut."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import pytest
import zarr

from tests.support import store_truth
from tests.support.chaos_archive import write_nifti, write_series, write_specs
from tests.support.ct_files import body
from tests.support.power_loss import DiskLog, Fate, write_tree
from tests.support.run_in_process import read_in_process
from voco_data.deidentification.pseudonyms import KEY_BYTES
from voco_data.erasure.patient import forget_patient
from voco_data.errors import InputError, VocoError
from voco_data.ingest.run import preprocess
from voco_data.maintenance.listing import describe_store, list_stores
from voco_data.maintenance.verification import verify_store
from voco_data.storage import atomic
from voco_data.store.reader import Store
from voco_data.store.spec import StoreSpec

SPECS = (StoreSpec(profile="small", grid=(6, 24, 24)), StoreSpec(profile="other", grid=(4, 16, 16)))
FORGOTTEN = "patient-1"
SCENARIOS = ("new root", "changed archive", "forget")


def _make_archives(folder: Path) -> tuple[Path, Path]:
    """Four series, one of them refused; later one changed, one gone, one new, none refused."""
    first, second = folder / "first", folder / "second"
    for patient in (1, 2):
        write_series(first / f"d{patient}", patient, body(seed=patient))
    write_series(first / "short", 9, body(seed=9)[:4])
    write_nifti(first / "n0.nii", seed=20)
    shutil.copytree(first, second)  # keeps the times of change
    write_series(second / "d1", 1, body(seed=101))
    shutil.rmtree(second / "d2")
    write_series(second / "short", 9, body(seed=9))
    write_nifti(second / "n1.nii", seed=21)
    return first, second


@dataclass
class PowerCuts:
    """One run of each scenario on the modelled disk, and what an undisturbed run ends with."""

    folder: Path
    patch: pytest.MonkeyPatch
    logs: dict[str, DiskLog] = field(default_factory=dict)
    expected: dict[str, dict[str, Any]] = field(default_factory=dict)
    volumes: dict[tuple[str, str, str], npt.NDArray[Any]] = field(default_factory=dict)
    """Store, series id and checksum of the chunk: the volume that an undisturbed run stored."""

    def prepare(self) -> None:
        """Record the runs."""
        read_in_process(self.patch)
        self.archives = _make_archives(self.folder)
        self.specs = write_specs(self.folder / "specs.json", SPECS)
        make_token = secrets.token_hex
        key = make_token(KEY_BYTES)  # a root that loses its first write makes the same key again
        self.patch.setattr(
            secrets, "token_hex", lambda n=None: key if n == KEY_BYTES else make_token(n)
        )
        first = self.folder / "new root"
        first.mkdir()
        self._record("new root", first)
        for name in ("changed archive", "forget"):
            root = Path(shutil.copytree(first, self.folder / name))
            self._record(name, root)
        self.patch.setattr(os, "fsync", lambda _: None)  # the runs after a cut: only their results
        self.patch.setattr(atomic, "sync_filesystem", lambda _: None)

    def _record(self, scenario: str, root: Path) -> None:
        log = DiskLog(root)
        with log.recording(self.patch):
            self.run(scenario, root)
        self.logs[scenario] = log
        store_truth.check_finished(root)
        self.expected[scenario] = store_truth.snapshot(root)
        for path in store_truth.stores(root):
            for row, record in store_truth.read_store(path).records.items():
                volume = Store.open(path).read(row)
                key = (path.name, record["series_uid"], record["chunk_checksum"])
                self.volumes[key] = volume

    def run(self, scenario: str, root: Path) -> None:
        """The run that the power cut interrupts, or the one after it."""
        if scenario == "forget":
            try:
                forget_patient(root, FORGOTTEN, yes=True)
            except InputError as error:
                if "names the patient" not in str(error):  # all of it was removed before
                    raise
            return
        archive = self.archives[scenario == "changed archive"]
        preprocess(archive, root, spec_file=self.specs, workers=1)

    def cut(self, scenario: str, point: int, fate: Fate, seed: int) -> None:
        """Cut the power after `point` operations; check what readers see, and the next run."""
        log = self.logs[scenario]
        tree = log.after_crash(point % (len(log.operations) + 1), fate, seed)
        root = write_tree(tree, self.folder / "cut")
        self._check_readers(root)
        self.run(scenario, root)
        store_truth.check_finished(root)
        found, expected = store_truth.snapshot(root), self.expected[scenario]
        assert set(found) == set(expected), sorted(set(found) ^ set(expected))
        differ = [name for name in expected if found[name] != expected[name]]
        assert not differ, differ
        for path in store_truth.stores(root):
            assert verify_store(path).problems == ()

    def _check_readers(self, root: Path) -> None:
        """What voco and zarr read is true, or refused in one line."""
        _one_line(lambda: list_stores(root))
        for path in store_truth.stores(root):
            _one_line(lambda path=path: verify_store(path))  # type: ignore[misc]
            _one_line(lambda path=path: describe_store(path))  # type: ignore[misc]
            _one_line(lambda path=path: self._check_volumes(path))  # type: ignore[misc]
        for path in root.glob("runs/*/ledger.parquet"):
            assert pq.read_table(path, page_checksum_verification=True).num_rows >= 1
        for path in root.glob("runs/*/report.html"):
            assert path.read_text().rstrip().endswith("</html>")

    def _check_volumes(self, path: Path) -> None:
        store = Store.open(path)
        lines = store.catalogue.set_index("row")
        for row in store.rows.tolist():
            line = lines.loc[row]
            truth = self.volumes[path.name, line["series_uid"], line["chunk_checksum"]]
            assert np.array_equal(store.read(row), truth)
        group = zarr.open_group(path, mode="r")
        for row in np.flatnonzero(group["valid"][:]).tolist():  # type: ignore[index]
            volume = group["volumes"][row]  # type: ignore[index]
            assert any(np.array_equal(volume, v) for v in self.volumes.values())


def _one_line(read: Callable[[], object]) -> None:
    """Call a reader, which may refuse what it finds."""
    try:
        read()
    except VocoError as error:
        lines = str(error).splitlines()
    else:
        return
    assert len(lines) == 1, lines
