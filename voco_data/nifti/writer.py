"""Write a volume of HU as NIfTI, through nibabel."""

from __future__ import annotations

import gzip
from pathlib import Path

import nibabel
import numpy as np
import numpy.typing as npt

from voco_data.nifti.reader import RAS_TO_LPS
from voco_data.storage import atomic

SCANNER_ANAT = 1
"""Code of sform and qform, NIFTI_XFORM_SCANNER_ANAT: positions are in the scanner's frame."""
MAX_DESCRIPTION_BYTES = 79
"""The field `descrip` has 80 bytes, the last of them 0."""


def write_nifti(
    path: Path, hu: npt.NDArray[np.int16], index_to_lps: npt.NDArray[np.float64], description: str
) -> None:
    """Write int16 HU (Z, Y, X) atomically; compressed if the name ends in `.gz`.

    `index_to_lps` (4, 4) maps indices (x, y, z, 1) to LPS mm; NIfTI stores RAS. `description` must
    be ASCII; it is cut to MAX_DESCRIPTION_BYTES.
    """
    to_ras = np.eye(4)
    to_ras[:3, :3] = RAS_TO_LPS
    image = nibabel.Nifti1Image(np.ascontiguousarray(hu.transpose(2, 1, 0)), to_ras @ index_to_lps)
    image.set_sform(image.affine, SCANNER_ANAT)
    image.set_qform(image.affine, SCANNER_ANAT)
    image.header.set_xyzt_units("mm")
    image.header["descrip"] = description.encode("ascii")[:MAX_DESCRIPTION_BYTES]
    data = image.to_bytes()
    atomic.write_bytes(path, gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)
