"""The closed list of reason codes that a ledger row may carry."""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    """Why a series or a file did not become a volume. The ledger holds the value."""

    # Files and series that are not CT volumes: skipped.
    NOT_AN_IMAGE = "not_an_image"
    """A readable DICOM object without pixels: structure set, plan, report, directory."""
    NOT_CT = "not_ct"
    """An image of another modality, or a label map."""
    LOCALIZER = "localizer"
    """A scout: ImageType value 3 is LOCALIZER (PS3.3 C.7.6.1.1.2, C.8.2.1.1.1)."""
    DERIVED = "derived"
    """A secondary capture, rendering, dose sheet or parametric map: its values are not HU."""
    MASK = "mask"
    """A segmentation: it belongs to a series, and is not one itself."""
    NOT_MEDICAL = "not_medical"
    """Neither DICOM nor NIfTI by its content."""

    # CT that cannot be trusted: refused.
    UNREADABLE = "unreadable"
    """The file does not parse, is truncated, or its pixels do not decode."""
    IO_ERROR = "io_error"
    """The file system failed to read it: no permission, a broken disk, a file that is missing."""
    UNSUPPORTED_SYNTAX = "unsupported_syntax"
    """A transfer syntax that is not decoded."""
    MISSING_GEOMETRY = "missing_geometry"
    """No position, orientation or pixel spacing (PS3.3 C.7.6.2), or none of each frame."""
    BAD_GEOMETRY = "bad_geometry"
    """Orientation, spacing or size that no scanner produces."""
    MIXED_GEOMETRY = "mixed_geometry"
    """Slices of one series differ in size, spacing or orientation."""
    MIXED_PATIENTS = "mixed_patients"
    """Slices of one series name several patients."""
    AFFINES_DISAGREE = "affines_disagree"
    """The qform and the sform of a NIfTI file place its voxels at different points."""
    TOO_FEW_SLICES = "too_few_slices"
    """Fewer slices than the spec asks for."""
    TOO_THIN = "too_thin"
    """Covers fewer millimetres than the spec asks for."""
    MISSING_SLICES = "missing_slices"
    """A gap between slices: a multiple of the spacing."""
    UNEVEN_SPACING = "uneven_spacing"
    """Gaps between slices differ by more than the tolerance."""
    IDENTITY_CONFLICT = "identity_conflict"
    """Two series of the archive have the same patient, study and series id, and differ."""
    DUPLICATE_POSITIONS = "duplicate_positions"
    """Two slices at one position with different pixels."""
    NOT_A_VOLUME = "not_a_volume"
    """A file whose array does not have exactly three dimensions."""
    BURNED_IN = "burned_in"
    """BurnedInAnnotation is YES, or the pixels look like text: they may name the patient."""
    BOX_OUTSIDE = "box_outside"
    """A box that was made elsewhere does not intersect the scan."""
    NOT_HU = "not_hu"
    """The values cannot be HU of a body, or a window shows a constant picture."""
    TIME_LIMIT = "time_limit"
    """Reading it took longer than a series may take."""
    INTERNAL_ERROR = "internal_error"
    """A bug in voco: the detail says where. Please report it."""
    WORKER_DIED = "worker_died"
    """Every process that read this series died, also one that read it alone (`RetryPolicy`)."""


TRANSIENT = frozenset(
    {Reason.IO_ERROR, Reason.TIME_LIMIT, Reason.INTERNAL_ERROR, Reason.WORKER_DIED}
)
"""Reasons that do not depend on the files: another run reads the series again."""

SKIPPED = frozenset(
    {
        Reason.NOT_AN_IMAGE,
        Reason.NOT_CT,
        Reason.LOCALIZER,
        Reason.DERIVED,
        Reason.MASK,
        Reason.NOT_MEDICAL,
    }
)
"""Reasons that make a row `skipped`; every other reason makes it `refused`."""
