"""Values of a header that may be shown to a person: the standard's own terms, and no free text.

A remark in the ledger that quoted a file could quote a name that somebody typed into that field.
"""

from __future__ import annotations

from pydicom.uid import UID

MODALITIES = frozenset(
    {
        *("CR", "CT", "DX", "ECG", "ES", "FID", "HC", "IO", "KO", "MG", "MR", "NM", "OP", "OT"),
        *("PR", "PT", "PX", "REG", "RF", "RG", "RTDOSE", "RTIMAGE", "RTPLAN", "RTRECORD"),
        *("RTSTRUCT", "RWV", "SC", "SEG", "SM", "SR", "US", "XA", "XC"),
    }
)
"""Modality (PS3.3 C.7.3.1.1.1): those that an archive of CT is likely to hold."""


def known_modality(value: str) -> str:
    """The modality, if it is one of MODALITIES."""
    return value if value in MODALITIES else "not named" if not value else "unknown"


def known_uid(value: str) -> str:
    """UID and name, if the standard defines it (PS3.6 A)."""
    name = UID(value).name
    if value and name != value:
        return f"{value} ({name})"
    return "not named" if not value else "unknown to the standard"
