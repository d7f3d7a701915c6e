from .measures import MEASURES as MEASURES
from .refusals import count_ledgers_to_keep as count_ledgers_to_keep
from .watching import (
    ALPHA as ALPHA,
    MIN_PATIENTS as MIN_PATIENTS,
    DriftSummary as DriftSummary,
    ReferenceCohort as ReferenceCohort,
    watch_drift as watch_drift,
)
