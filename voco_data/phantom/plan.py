"""The plan of each patient of a cohort, drawn from the seed and the patient's number alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from voco_data.errors import InputError
from voco_data.phantom.domains import Domain, find_domains
from voco_data.phantom.patient.model import Extent, PatientModel, make_patient, organ_extents
from voco_data.phantom.patient.pose import PhaseName, Scan
from voco_data.phantom.protocol import Coverage, make_scan
from voco_data.phantom.scan_files import DicomStyle

MAX_PATIENTS = 32_000
"""With more, series ids would repeat."""
SECOND_SERIES_CHANCE = 0.45
_SHORT_CHANCE = 0.08
_INCOMPLETE_MM = 5.0
"""An organ is incomplete when more than this of its height is not scanned."""
_RATIC_STREAM, _FLARE_STREAM = 0, 1


@dataclass(frozen=True, slots=True)
class CohortSpec:
    """The parameters of a cohort. The same values give the same bytes."""

    patients: int = 60
    """Labelled patients, in RATIC's layout."""
    unlabelled: int = 12
    """Volumes without labels, in FLARE's layout."""
    matrix: int = 128
    """Rows and columns."""
    slices: int = 72
    """Nominal slices of a chest-to-thigh scan; range and spacing vary it."""
    injury_prevalence: float = 0.35
    """Chance of an injury of each of kidney, liver and spleen; low and high are equally likely."""
    segmentation_fraction: float = 0.2
    """Share of the series with an organ segmentation."""
    seed: int = 0
    domains: tuple[str, ...] = ()
    """Names of `voco_data.phantom.domains.DOMAINS`; patients take them in turn. None: the plain
    phantom."""
    first_patient: int = 0
    """Number of the first labelled patient. Two cohorts of one seed whose numbers differ share no
    patient and no id."""

    def __post_init__(self) -> None:
        if not 0 <= self.first_patient < MAX_PATIENTS:
            raise InputError(
                f"cohort: expected 0 to {MAX_PATIENTS - 1} as first_patient, got "
                f"{self.first_patient}"
            )
        most = MAX_PATIENTS - self.first_patient
        if not 1 <= self.patients <= most or not 0 <= self.unlabelled <= 9999:
            raise InputError(
                f"cohort: expected 1 to {most} patients and 0 to 9999 unlabelled, "
                f"got {self.patients} and {self.unlabelled}"
            )
        if not 16 <= self.matrix <= 1024 or not 12 <= self.slices <= 2000:
            raise InputError(
                f"cohort: expected a matrix of 16 to 1024 and 12 to 2000 slices, "
                f"got {self.matrix} and {self.slices}"
            )
        if not (0 <= self.injury_prevalence <= 1 and 0 <= self.segmentation_fraction <= 1):
            raise InputError("cohort: prevalence and fraction must be from 0 to 1")
        if self.seed < 0:
            raise InputError(f"cohort: seed must be 0 or more, got {self.seed}")
        find_domains(self.domains)

    def domain_of(self, number: int) -> Domain | None:
        """The domain of the patient or unlabelled volume `number`; None in the plain phantom."""
        domains = find_domains(self.domains)
        return domains[number % len(domains)] if domains else None


@dataclass(frozen=True, slots=True)
class SeriesPlan:
    """One RATIC series."""

    series_id: int
    scan: Scan
    style: DicomStyle
    segmented: bool
    incomplete_organ: bool
    """Whether a part of liver, spleen or a kidney is not scanned."""


@dataclass(frozen=True, slots=True)
class PatientPlan:
    """One RATIC patient with one or two series of different phases."""

    patient_id: int
    model: PatientModel
    series: tuple[SeriesPlan, ...]
    domain: Domain | None = None


def _generator(spec: CohortSpec, stream: int, number: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(spec.seed, spawn_key=(stream, number)))


def plan_patient(spec: CohortSpec, number: int) -> PatientPlan:
    """The patient `number` (from 0), the same for any number of patients in the cohort."""
    rng = _generator(spec, _RATIC_STREAM, number)
    patient_id = 10004 + 37 * number + int(rng.integers(30))
    domain = spec.domain_of(number)
    model = make_patient(rng, injury_prevalence=spec.injury_prevalence, domain=domain)
    phases: list[PhaseName] = ["arterial", "portal"]
    if rng.random() >= SECOND_SERIES_CHANCE:
        phases = [phases[int(rng.random() < 0.7)]]
    if domain is not None:
        order = rng.permutation(len(domain.phases))[: len(phases)]
        phases = [domain.phases[index] for index in order]
    extents = organ_extents(model)
    series = [
        _plan_series(rng, spec, model, extents, patient_id, 2 * number + i, phase, domain)
        for i, phase in enumerate(phases)
    ]
    return PatientPlan(patient_id, model, tuple(series), domain)


def _plan_series(
    rng: np.random.Generator,
    spec: CohortSpec,
    model: PatientModel,
    extents: dict[str, Extent],
    patient_id: int,
    ordinal: int,
    phase: PhaseName,
    domain: Domain | None,
) -> SeriesPlan:
    # An odd step modulo 2^16 visits every id once, in an order that looks random.
    series_id = (21057 + 7919 * ordinal) % 2**16
    coverage: Coverage = "abdomen" if rng.random() < 0.6 else "chest_to_thigh"
    if rng.random() < _SHORT_CHANCE:
        coverage = "short"
    scan = make_scan(
        rng,
        model,
        matrix=spec.matrix,
        slices=spec.slices,
        coverage=coverage,
        phase=phase,
        domain=domain,
    )
    two_windows = rng.random() < 0.3
    style = DicomStyle(
        descending=bool(rng.random() < 0.5),
        first_instance=1 if rng.random() < 0.3 else int(rng.integers(2, 200)),
        modality=None,
        patient_name=None,
        patient_id=str(patient_id),
        key=f"voco-phantom/{spec.seed}/{patient_id}",
        series_key=str(series_id),
        series_number=2 + ordinal % 2,
        window_centre=(50, -600) if two_windows else (50,),
        window_width=(400, 1500) if two_windows else (400,),
    )
    return SeriesPlan(
        series_id=series_id,
        scan=scan,
        style=style,
        segmented=bool(rng.random() < spec.segmentation_fraction),
        incomplete_organ=_is_incomplete(extents, scan),
    )


def _is_incomplete(extents: dict[str, Extent], scan: Scan) -> bool:
    low, high = float(scan.z_mm[0]), float(scan.z_mm[-1])
    return any(
        extent.low_mm[2] < low - _INCOMPLETE_MM or extent.high_mm[2] > high + _INCOMPLETE_MM
        for extent in extents.values()
    )


def plan_unlabelled(spec: CohortSpec, number: int) -> tuple[PatientModel, Scan]:
    """The unlabelled volume `number` (from 0)."""
    rng = _generator(spec, _FLARE_STREAM, number)
    domain = spec.domain_of(number)
    model = make_patient(rng, injury_prevalence=spec.injury_prevalence, domain=domain)
    coverage: Coverage = "abdomen" if rng.random() < 0.6 else "chest_to_thigh"
    phase: PhaseName = "portal" if rng.random() < 0.7 else "arterial"
    if domain is not None:
        phase = domain.phases[int(rng.integers(len(domain.phases)))]
    scan = make_scan(
        rng,
        model,
        matrix=spec.matrix,
        slices=spec.slices,
        coverage=coverage,
        phase=phase,
        domain=domain,
    )
    return model, scan
