"""A synthetic cohort on disk: a small RATIC and a small FLARE23.

<root>/ratic/train_images/<patient>/<series>/<instance>.dcm, segmentations/, tables
<root>/flare/unlabeledTr1800/FLARE23_<number>_0000.nii.gz
<root>/domains.csv                       the domain of each scan, if the cohort has domains
<root>/phantom.json                      the parameters, and whether the cohort is complete
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from voco_data.errors import InputError
from voco_data.phantom.plan import CohortSpec, plan_patient, plan_unlabelled
from voco_data.phantom.ratic import PatientRows, write_patient, write_tables
from voco_data.phantom.render import acquire, render_scan
from voco_data.phantom.scan_files import write_nifti
from voco_data.storage import write_text

__all__ = ["CohortPaths", "CohortSpec", "write_cohort"]

PHANTOM_VERSION = 1
"""Increase it if the same parameters would give other bytes."""
_MARKER = "phantom.json"
DOMAINS_FILE = "domains.csv"


@dataclass(frozen=True, slots=True)
class CohortPaths:
    """The folders of a cohort and its table of labels."""

    ratic: Path
    flare: Path
    labels: Path
    """RATIC's `train.csv`."""


def write_cohort(spec: CohortSpec, root: Path, *, workers: int = 1) -> CohortPaths:
    """Write the cohort of `spec` under `root`, in `workers` processes.

    Patients have the numbers `spec.first_patient` and following. A patient's bytes depend on the
    seed and the patient's number alone, not on the number of
    patients or workers. A root that already holds this cohort is not changed; an incomplete cohort
    of the same parameters is written again. Raises InputError if the root holds anything else.
    """
    root = Path(root)
    paths = CohortPaths(root / "ratic", root / "flare", root / "ratic" / "train.csv")
    if _is_complete(spec, paths, root):
        return paths
    _write_marker(spec, root, whole=False)
    with _process_pool(workers) as pool:
        run_all = map if pool is None else partial(pool.map, chunksize=2)
        volumes = run_all(partial(_write_unlabelled, spec, paths.flare), range(spec.unlabelled))
        first = spec.first_patient
        numbers = range(first, first + spec.patients)
        patients = run_all(partial(_write_labelled, spec, paths.ratic), numbers)
        rows = list(patients)
        write_tables(rows, paths.ratic)
        for _ in volumes:
            pass
    if spec.domains:
        _write_domains(spec, rows, root)
    _write_marker(spec, root, whole=True)
    return paths


def _write_labelled(spec: CohortSpec, root: Path, number: int) -> PatientRows:
    return write_patient(plan_patient(spec, number), root)


def _write_domains(spec: CohortSpec, patients: list[PatientRows], root: Path) -> None:
    """Write `domains.csv`: a line a scan, with the ids that the layouts give it."""
    lines = ["patient_id,series_id,domain"]
    lines += [
        f"{row['patient_id']},{row['series_id']},{row['domain']}"
        for rows in patients
        for row in rows.series
    ]
    for number in range(spec.unlabelled):
        domain = spec.domain_of(number)
        assert domain is not None
        name = f"FLARE23_{number + 1:04d}"
        lines.append(f"{name},{name}_0000,{domain.name}")
    write_text(root / DOMAINS_FILE, "\n".join(lines) + "\n")


def _write_unlabelled(spec: CohortSpec, root: Path, number: int) -> None:
    patient, scan = plan_unlabelled(spec, number)
    path = root / "unlabeledTr1800" / f"FLARE23_{number + 1:04d}_0000.nii.gz"
    write_nifti(path, acquire(render_scan(patient, scan), scan), scan, flip_rows=number % 2 == 1)


@contextmanager
def _process_pool(workers: int) -> Iterator[ProcessPoolExecutor | None]:
    """Spawned processes: a fork would copy the locks of the caller's threads."""
    if workers < 1:
        raise InputError(f"cohort: workers must be 1 or more, got {workers}")
    if workers == 1:
        yield None
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        yield pool


def _marker_state(spec: CohortSpec, *, whole: bool) -> dict[str, object]:
    values = asdict(spec)
    # Written as before where these are not used, so that a cohort of then is still known.
    later = {"domains": list(values.pop("domains")), "first_patient": values.pop("first_patient")}
    return {
        "version": PHANTOM_VERSION,
        "whole": whole,
        **values,
        **{name: value for name, value in later.items() if value},
    }


def _write_marker(spec: CohortSpec, root: Path, *, whole: bool) -> None:
    write_text(root / _MARKER, json.dumps(_marker_state(spec, whole=whole), indent=2) + "\n")


def _is_complete(spec: CohortSpec, paths: CohortPaths, root: Path) -> bool:
    """Whether `root` holds this cohort, complete. Raises InputError if it holds anything else."""
    marker = root / _MARKER
    if not marker.exists():
        existing = [path for path in (paths.ratic, paths.flare) if path.exists()]
        if existing:
            raise InputError(
                f"{existing[0]} exists and is no cohort of ours; choose another folder"
            )
        return False
    state = json.loads(marker.read_text())
    if state not in (_marker_state(spec, whole=True), _marker_state(spec, whole=False)):
        raise InputError(f"{root} holds a cohort of other parameters; choose another folder")
    return bool(state["whole"])
