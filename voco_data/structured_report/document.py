"""One study's predictions as a Measurement Report (PS3.16, TID 1500), made by highdicom.

Each target group is a Measurement and Qualitative Evaluation Group (TID 1501): its finding site, a
measurement for the probability of each class, the predicted class as a qualitative evaluation, and
the algorithm (TID 4019). Concepts without a standard code have codes of the scheme 99VOCO.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import highdicom
from highdicom import sr
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.valuerep import DA, TM

NOTICE = "Not a medical device. For research only."
SCHEME = "99VOCO"
NAME, MANUFACTURER = "voco", "voco"
SERIES_NUMBER = 9900
UTF8 = "ISO_IR 192"

FINDING_SITES = {
    "bowel": Code("113276009", "SCT", "Intestine"),
    "extravasation": codes.SCT.Abdomen,
    "kidney": codes.SCT.Kidney,
    "liver": codes.SCT.Liver,
    "spleen": codes.SCT.Spleen,
}
"""Where a group's finding is, in SNOMED CT."""
CLASSES = {
    "healthy": codes.SCT.Absent,
    "low": Code("injury_low", SCHEME, "Injury of low grade (AAST I to III)"),
    "high": Code("injury_high", SCHEME, "Injury of high grade (AAST IV or V)"),
    "injury": codes.SCT.Present,
}
"""The predicted class of a group, as the value of the evaluation "Traumatic injury"."""
PROBABILITIES = {
    "healthy": Code("p_healthy", SCHEME, "Probability of no injury"),
    "low": Code("p_low", SCHEME, "Probability of an injury of low grade (AAST I to III)"),
    "high": Code("p_high", SCHEME, "Probability of an injury of high grade (AAST IV or V)"),
    "injury": Code("p_injury", SCHEME, "Probability of an injury"),
}
"""Names of the measurements, by class."""
ABSTAINED = codes.SCT.Indeterminate
TITLE = codes.DCM.ImagingMeasurementReport
PROCEDURE = Code("77477000", "SCT", "Computed tomography")
COMMENT = codes.DCM.Comment

_REQUIRED = (
    "PatientID",
    "PatientName",
    "PatientBirthDate",
    "PatientSex",
    "AccessionNumber",
    "StudyID",
    "StudyDate",
    "StudyTime",
    "ReferringPhysicianName",
)
"""Attributes of type 2 that highdicom reads: empty where the source lacks them."""
_DATES, _TIMES = ("PatientBirthDate", "StudyDate"), ("StudyTime",)
_SEXES = ("", "F", "M", "O")
"""Values of PatientSex (PS3.3 C.7.1.1)."""


@dataclass(frozen=True, slots=True)
class GroupFinding:
    """What was predicted of one target group."""

    group: str
    probabilities: dict[str, float]
    """Calibrated, by class."""
    predicted: str
    """The predicted class; empty where the group abstains."""


def make_document(
    evidence: Sequence[Dataset],
    findings: Sequence[GroupFinding],
    *,
    version: str,
    parameters: Sequence[str],
) -> Dataset:
    """The report of one study, with patient and study of `evidence[0]`.

    `evidence` are headers of all images of the series that were predicted. `version` and
    `parameters` identify the algorithm. The same input gives the same SOP instance UID.
    """
    first = evidence[0]
    _complete_header(first)
    device = _uid(NAME, version, *parameters)
    algorithm = sr.AlgorithmIdentification(
        name=NAME,
        version=version,
        family=codes.cid7162.ArtificialIntelligence,
        parameters=list(parameters),
    )
    observer = sr.ObserverContext(
        observer_type=codes.DCM.Device,
        observer_identifying_attributes=sr.DeviceObserverIdentifyingAttributes(
            uid=device, name=NAME, manufacturer_name=MANUFACTURER, model_name=version
        ),
    )
    content = sr.MeasurementReport(
        observation_context=sr.ObservationContext(observer_device_context=observer),
        procedure_reported=PROCEDURE,
        imaging_measurements=[
            _measurements(finding, algorithm, str(first.StudyInstanceUID), device)
            for finding in findings
        ],
        title=TITLE,
    )
    root = content[0]
    root.ContentSequence.append(
        sr.TextContentItem(
            name=COMMENT, value=NOTICE, relationship_type=sr.RelationshipTypeValues.CONTAINS
        )
    )
    identity = [str(image.SOPInstanceUID) for image in evidence]
    identity += [repr(finding) for finding in findings]
    with warnings.catch_warnings():
        # Of names in the source that the standard does not expect; they are copied as they are.
        warnings.filterwarnings("ignore", module=r"(highdicom|pydicom)(\.|$)")
        document: Dataset = sr.EnhancedSR(
            evidence=list(evidence),
            content=root,
            series_instance_uid=_uid("series", first.StudyInstanceUID, first.PatientID, device),
            series_number=SERIES_NUMBER,
            sop_instance_uid=_uid("instance", device, *identity),
            instance_number=1,
            manufacturer=MANUFACTURER,
            is_complete=True,
            is_final=False,
            is_verified=False,
            specific_character_set=UTF8,
            series_description="voco predictions, research use only",
        )
    return document


def _complete_header(image: Dataset) -> None:
    """Empty the attributes that the image lacks, and values that the standard does not allow.

    The standard allows the empty value for all of `_REQUIRED`, and highdicom raises for others.
    """
    for keyword in _REQUIRED:
        if keyword not in image:
            setattr(image, keyword, "")
    for kind, keywords in ((DA, _DATES), (TM, _TIMES)):
        for keyword in keywords:
            try:
                kind(getattr(image, keyword))
            except (ValueError, TypeError):
                setattr(image, keyword, "")
    if image.PatientSex not in _SEXES:
        image.PatientSex = ""


def _measurements(
    finding: GroupFinding, algorithm: sr.AlgorithmIdentification, study: str, device: str
) -> sr.MeasurementsAndQualitativeEvaluations:
    return sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(
            uid=_uid("group", study, device, finding.group), identifier=finding.group
        ),
        algorithm_id=algorithm,
        finding_sites=[sr.FindingSite(FINDING_SITES[finding.group])],
        measurements=[
            sr.Measurement(
                name=PROBABILITIES[name],
                value=round(probability, 6),
                unit=codes.UCUM.NoUnits,
            )
            for name, probability in finding.probabilities.items()
        ],
        qualitative_evaluations=[
            sr.QualitativeEvaluation(
                name=codes.SCT.TraumaticInjury,
                value=CLASSES[finding.predicted] if finding.predicted else ABSTAINED,
            )
        ],
    )


def _uid(*parts: object) -> highdicom.UID:
    """A UID from a digest of `parts` (PS3.5 B.2, as an integer of 128 bits)."""
    digest = hashlib.sha256("\0".join(map(str, parts)).encode()).digest()
    return highdicom.UID(f"2.25.{int.from_bytes(digest[:16], 'big')}")
