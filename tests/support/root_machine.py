"""A root under random changes of its archive, kills, power cuts and removals, beside a plain model.

The model knows for each series which contents a store may hold: one, or several after a run that
was interrupted, until a run has ended. What it expects of contents is the checksum that a run over
this series alone has stored.
"""

from __future__ import annotations

import contextlib
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, Literal

import pytest
import xxhash
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from tests.support import store_truth
from tests.support.ct_files import body, write_slices
from tests.support.power_loss import FATES, DiskLog, Fate, write_tree
from voco_data.deidentification import pseudonyms
from voco_data.erasure.patient import forget_patient
from voco_data.errors import InputError, VocoError
from voco_data.ingest.run import PreprocessSummary, preprocess
from voco_data.maintenance.garbage import collect_garbage
from voco_data.maintenance.verification import verify_store
from voco_data.storage import open_storage
from voco_data.store.reader import Store
from voco_data.store.spec import StoreSpec

SPEC = StoreSpec(profile="small", grid=(6, 16, 16))
SHAPE = (12, 32, 32)
SHORT = 4
"""Slices of a series that is refused."""
WAIT_S = 60.0

PATIENTS = st.integers(0, 2)
CONTENTS = st.integers(0, 5)
Identity = tuple[str, str]
"""Patient id and series id, as the archive has them."""
Victim = Literal["preprocess", "prune", "forget"]


@dataclass(frozen=True)
class Series:
    """One series of the archive."""

    patient: str
    uid: str
    contents: int
    is_short: bool = False

    @property
    def identity(self) -> Identity:
        return (self.patient, self.uid)

    def write(self, folder: Path) -> None:
        hu = body(SHAPE, seed=self.contents)
        tags = {"PatientID": self.patient, "SeriesInstanceUID": self.uid}
        write_slices(folder, hu[:SHORT] if self.is_short else hu, tags=tags)


@lru_cache
def checksum_of(contents: int) -> str:
    """The checksum of the volume of these contents, from a run over one series alone."""
    folder = Path(mkdtemp(prefix="voco-alone-"))
    Series("p", "1.2", contents).write(folder / "archive/s")
    (folder / "spec.json").write_text(f"[{SPEC.canonical_json()}]")
    preprocess(folder / "archive", folder / "root", spec_file=folder / "spec.json", workers=1)
    (record,) = store_truth.read_store(folder / "root" / SPEC.name).records.values()
    shutil.rmtree(folder)
    return str(record["chunk_checksum"])


class RootMachine(RuleBasedStateMachine):
    """The rules that a folder and a bucket share."""

    root: str
    keep_ids: bool

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(mkdtemp(prefix="voco-machine-")).resolve()
        self.archive: dict[str, Series] = {}
        self.held: dict[Identity, set[int | None]] = {}
        """Contents that the store may hold; None: it may hold no row."""
        self.is_finished = False
        """Whether a run has ended well since the last interruption."""
        self.number = 0
        self.specs = self.folder / "spec.json"
        self.specs.write_text(f"[{SPEC.canonical_json()}]")
        counts["machines"] += 1

    @initialize(patient=PATIENTS, contents=CONTENTS)
    def begin(self, patient: int, contents: int) -> None:
        self._add(f"p{patient}", contents)

    def _add(self, patient: str, contents: int) -> None:
        self.number += 1
        series = Series(patient, f"1.2.{self.number}", contents)
        self.archive[f"s{self.number}"] = series
        series.write(self.folder / f"archive/s{self.number}")

    def _run(self, **options: Any) -> PreprocessSummary:
        return preprocess(
            self.folder / "archive",
            self.root,
            spec_file=self.specs,
            workers=1,
            keep_ids=self.keep_ids,
            wait=WAIT_S,
            **options,
        )

    @precondition(lambda self: len(self.archive) < 6)
    @rule(patient=PATIENTS, contents=CONTENTS)
    def add_a_series(self, patient: int, contents: int) -> None:
        counts["steps"] += 1
        self._add(f"p{patient}", contents)

    @rule(data=st.data(), contents=CONTENTS, is_short=st.booleans())
    def change_a_series(self, data: st.DataObject, contents: int, is_short: bool) -> None:
        counts["steps"] += 1
        name = data.draw(st.sampled_from(sorted(self.archive)))
        old = self.archive[name]
        shutil.rmtree(self.folder / "archive" / name)
        self.archive[name] = Series(old.patient, old.uid, contents, is_short)
        self.archive[name].write(self.folder / "archive" / name)

    @rule(data=st.data())
    def rename_a_folder(self, data: st.DataObject) -> None:
        counts["steps"] += 1
        name = data.draw(st.sampled_from(sorted(self.archive)))
        self.number += 1
        (self.folder / "archive" / name).rename(self.folder / f"archive/r{self.number}")
        self.archive[f"r{self.number}"] = self.archive.pop(name)

    @rule(data=st.data())
    def rename_a_file(self, data: st.DataObject) -> None:
        counts["steps"] += 1
        name = data.draw(st.sampled_from(sorted(self.archive)))
        file = min((self.folder / "archive" / name).iterdir())
        self.number += 1
        file.rename(file.with_name(f"z{self.number}.dcm"))

    @precondition(lambda self: len(self.archive) > 1)
    @rule(data=st.data())
    def remove_a_series(self, data: st.DataObject) -> None:
        counts["steps"] += 1
        name = data.draw(st.sampled_from(sorted(self.archive)))
        del self.archive[name]
        shutil.rmtree(self.folder / "archive" / name)

    @rule(deep=st.booleans())
    def preprocess(self, deep: bool) -> None:
        counts["steps"] += 1
        self._check_summary(lambda: self._run(deep=deep))

    @rule()
    def prune(self) -> None:
        counts["steps"] += 1
        self._check_summary(lambda: self._run(prune=True, yes=True), prunes=True)

    def _check_summary(self, run: Callable[[], PreprocessSummary], *, prunes: bool = False) -> None:
        """A run's counts are those of the model, where the model knows what was there."""
        whole = [series for series in self.archive.values() if not series.is_short]
        new = [one for one in whole if self.held.get(one.identity) != {one.contents}]
        is_known = all(len(held) == 1 for held in self.held.values())
        summary = run()
        assert summary.series == len(self.archive)
        assert summary.refused == len(self.archive) - len(whole)
        if is_known:
            assert summary.stored == len(new)
            assert summary.cached == len(whole) - len(new)
        if prunes:
            present = {series.identity for series in self.archive.values()}
            gone = {one for one in self.held if one not in present}
            assert not is_known or summary.pruned == len(gone)
            self.held = {one: held for one, held in self.held.items() if one in present}
        self._finish()

    @rule()
    def two_runs_at_once(self) -> None:
        counts["steps"] += 1
        failures: list[BaseException] = []

        def run() -> None:
            try:
                self._run()
            except BaseException as error:  # noqa: BLE001  the main thread reports it
                failures.append(error)

        threads = [threading.Thread(target=run) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failures, failures
        self._finish()

    def _finish(self) -> None:
        for series in self.archive.values():
            if not series.is_short:
                self.held[series.identity] = {series.contents}
        self.is_finished = True
        self._collapse()
        if open_storage(f"{self.root}/{SPEC.name}").size("zarr.json") is not None:
            assert verify_store(f"{self.root}/{SPEC.name}").problems == ()

    def _collapse(self) -> None:
        """After a run that ended well, the store tells which of several outcomes came true."""
        found = self._found()
        for identity, held in list(self.held.items()):
            actual = found.get(identity)
            match = {one for one in held if actual == (None if one is None else checksum_of(one))}
            assert match, f"{identity}: {actual}, expected one of {held}"
            if match == {None}:
                del self.held[identity]
            else:
                self.held[identity] = match

    @precondition(lambda self: self.is_finished and self.held)
    @rule(data=st.data())
    def forget(self, data: st.DataObject) -> None:
        counts["steps"] += 1
        patient = data.draw(st.sampled_from(sorted({patient for patient, _ in self.held})))
        self._forget(patient)

    def _forget(self, patient: str) -> None:
        forget_patient(self.root, patient, yes=True, wait=WAIT_S)
        self.held = {one: held for one, held in self.held.items() if one[0] != patient}
        self._collapse()

    @precondition(lambda self: self.is_finished)
    @rule()
    def collect_garbage(self) -> None:
        counts["steps"] += 1
        collect_garbage(self.root, yes=True, wait=WAIT_S)

    @precondition(lambda self: self.is_finished)
    @rule()
    def verify(self) -> None:
        counts["steps"] += 1
        assert verify_store(f"{self.root}/{SPEC.name}").problems == ()

    def _victim(self, victim: Victim) -> Callable[[], object]:
        if victim == "forget":
            patient = min(patient for patient, _ in self.held)
            return lambda: forget_patient(self.root, patient, yes=True, wait=WAIT_S)
        return lambda: self._run(prune=victim == "prune", yes=victim == "prune")

    def _interrupted(self, victim: Victim) -> None:
        """What the store may hold after a run was interrupted."""
        patient = min((patient for patient, _ in self.held), default="")
        if victim == "forget":  # it is repeated: until then, anything may be left of the patient
            with contextlib.suppress(InputError):
                forget_patient(self.root, patient, yes=True, wait=WAIT_S)
            self.held = {one: held for one, held in self.held.items() if one[0] != patient}
            self._collapse()
            return
        self.is_finished = False
        present = {series.identity for series in self.archive.values()}
        for series in self.archive.values():
            if not series.is_short:
                held = self.held.setdefault(series.identity, {None})
                held.add(series.contents)
        for identity, held in self.held.items():
            if victim == "prune" and identity not in present:
                held.add(None)

    def _found(self) -> dict[Identity, str]:
        """Checksum of the voxels of each series that the store lists."""
        if open_storage(f"{self.root}/{SPEC.name}").size("zarr.json") is None:
            return {}
        store = Store.open(f"{self.root}/{SPEC.name}", cached=False)
        names = self._names()
        lines = store.catalogue.set_index("row")
        found: dict[Identity, str] = {}
        for row in store.rows.tolist():
            line = lines.loc[row]
            identity = names[line["patient_id"], line["series_uid"]]
            assert identity not in found, f"two rows of {identity}"
            found[identity] = xxhash.xxh3_128_hexdigest(store.read(row).tobytes())
        return found

    def _names(self) -> dict[Identity, Identity]:
        """The archive's ids of the ids that the store has."""
        known = {*self.held, *(series.identity for series in self.archive.values())}
        if self.keep_ids:
            return {one: one for one in known}
        key = pseudonyms.load(open_storage(self.root))
        if key is None:
            return {}
        return {(key.code("patient", p), key.code("series", uid)): (p, uid) for p, uid in known}

    @invariant()
    def nothing_false_is_read(self) -> None:
        """Every volume is one that the model expects, and none is missing that must be there."""
        found = self._found()
        for identity, checksum in found.items():
            held = self.held.get(identity, {None})
            assert checksum in {checksum_of(one) for one in held if one is not None}, identity
        for identity, held in self.held.items():
            assert None in held or identity in found, f"{identity} is gone"

    def teardown(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


class FolderMachine(RootMachine):
    """On a folder: kills and power cuts between any two changes of the disk."""

    @initialize(keep_ids=st.booleans())
    def choose_ids(self, keep_ids: bool) -> None:
        self.root = str(self.folder / "root")
        self.keep_ids = keep_ids

    @rule(
        victim=st.sampled_from(["preprocess", "prune", "forget"]),
        fate=st.sampled_from(FATES),
        share=st.floats(0, 1),
        seed=st.integers(0, 2**32 - 1),
    )
    def interrupt(self, victim: Victim, fate: Fate, share: float, seed: int) -> None:
        """A kill (`kept`: nothing is lost), or a power cut."""
        counts["steps"] += 1
        if victim == "forget" and not (self.is_finished and self.held):
            return
        root = Path(self.root)
        root.mkdir(exist_ok=True)
        log = DiskLog(root)
        with pytest.MonkeyPatch.context() as patch, log.recording(patch):
            self._victim(victim)()
        point = round(share * len(log.operations))
        write_tree(log.after_crash(point, fate, seed), root)
        counts["interruptions"] += 1
        with contextlib.suppress(VocoError):
            verify_store(root / SPEC.name)
        self._interrupted(victim)


counts = {"machines": 0, "steps": 0, "interruptions": 0}
"""What the machines of this process have done."""


class Killed(BaseException):
    """The run ends here, as if it was killed."""


@contextmanager
def killed_at_request(number: int, module: Any) -> Iterator[None]:
    """Let every change of a bucket fail after `number` of them, as for a process that is gone."""
    left = number
    main = threading.current_thread()

    def counting(change: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            nonlocal left
            if threading.current_thread() is not main:  # it renews the lease, at any time
                if left < 0:
                    raise OSError("the process is gone")
                return change(*args, **options)
            if ".lock" not in str(args[1]):  # a busy machine renews a lease more often
                left -= 1
            if left < 0:
                raise Killed
            return change(*args, **options)

        return call

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "put", counting(module.put))
        patch.setattr(module, "delete", counting(module.delete))
        with contextlib.suppress(Killed):
            yield
