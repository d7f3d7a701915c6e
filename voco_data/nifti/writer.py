"""NIfTI out: one volume, its affine and a line of description, as nibabel writes it."""

from __future__ import annotations

import gzip
from pathlib import Path

import nibabel
import numpy as np
import numpy.typing as npt

from voco_data.nifti.reader import RAS_TO_LPS
from voco_data.storage import atomic

SCANNER = 1
"""xform code of a frame that is the scanner's (NIFTI_XFORM_SCANNER_ANAT)."""
DESCRIPTION_BYTES = 79


def write_nifti(
    path: Path, hu: npt.NDArray[np.int16], index_to_lps: npt.NDArray[np.float64], text: str
) -> None:
    """Write int16 HU (Z, Y, X), whole or not at all; packed if the name ends in `.gz`.

    `index_to_lps` (4, 4) takes (x, y, z, 1) indices to LPS mm; NIfTI wants RAS.
    """
    to_ras = np.eye(4)
    to_ras[:3, :3] = RAS_TO_LPS
    image = nibabel.Nifti1Image(np.ascontiguousarray(hu.transpose(2, 1, 0)), to_ras @ index_to_lps)
    image.set_sform(image.affine, SCANNER)
    image.set_qform(image.affine, SCANNER)
    image.header.set_xyzt_units("mm")
    image.header["descrip"] = text.encode("ascii")[:DESCRIPTION_BYTES]
    data = image.to_bytes()
    atomic.write_bytes(path, gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)
