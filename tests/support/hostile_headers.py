"""An archive whose headers hold escapes of a terminal and a patient's name wherever they can.

Libraries quote such values when they warn: each of these files made one of them do so.
"""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import warnings
from pathlib import Path

import nibabel
import numpy as np
import pydicom
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag

from tests.support.ct_files import body, write_slices
from tests.support.project import PROJECT

NAME = "Doe\x1b[31m^Jane"
WORDS = ("Doe", "Jane", "\x1b")
"""What no line on stderr may have."""
KEYWORDS = (
    "AcquisitionTime",
    "FrameOfReferenceUID",
    "GantryDetectorTilt",
    "ImageType",
    "InstanceNumber",
    "KVP",
    "PatientAge",
    "PixelSpacing",
    "SeriesInstanceUID",
    "SliceThickness",
    "SpecificCharacterSet",
    "StudyDate",
    "StudyInstanceUID",
    "WindowCenter",
)
"""Elements of every kind that pydicom checks as it reads, or converts when they are used."""
CHARACTER_SETS = (f"ISO_IR 100\\{NAME}", f"ISO 2022 IR 6\\{NAME}\\GB18030", f"GB18030\\{NAME}")
NRRD = (
    "NRRD0004\ntype: uint8\ndimension: 3\nspace: left-posterior-superior\nsizes: 60 60 24\n"
    "space directions: (2,0,0) (0,2,0) (0,0,5)\nspace origin: (-60,-60,-100)\nencoding: raw\n"
    f"{NAME}: 1\n{NAME}: 2\n\n"
)
"""A header with a field twice."""


def set_raw(path: Path, keyword: str, text: str) -> None:
    """Give an element a value that its kind does not allow."""
    dataset = pydicom.dcmread(path)
    tag = Tag(tag_for_keyword(keyword) or 0)
    raw = text.encode() + b" " * (len(text.encode()) % 2)
    element = RawDataElement(tag, dictionary_VR(tag), len(raw), raw, 0, False, True)
    dataset[tag] = element
    dataset.save_as(path)


def write_hostile_archive(folder: Path) -> None:
    """DICOM series with one such element each, and NIfTI files with damaged headers."""
    with pydicom.config.disable_value_validation(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom warns as it writes, too
        names = dict.fromkeys(("PatientName", "PatientID", "StudyDescription"), NAME)
        masked = write_slices(folder / "named", body(), tags=names)[0].parent
        (masked / "liver_mask.nrrd").write_bytes(NRRD.encode() + bytes(60 * 60 * 24))
        cases = [(keyword, NAME) for keyword in KEYWORDS]
        cases += [("SpecificCharacterSet", text) for text in CHARACTER_SETS]
        for number, (keyword, text) in enumerate(cases):
            tags = {"PatientID": f"case {number}", "PatientName": "Doe^Jane"}
            for path in write_slices(folder / f"{number}", body(seed=number + 1), tags=tags):
                set_raw(path, keyword, text)
    hu = np.full((60, 60, 24), -1000, np.int16)
    hu[15:45, 15:45] = 40
    image = nibabel.Nifti1Image(hu, np.diag([2, 2, 5, 1]))
    image.header["descrip"] = NAME.encode()
    whole = bytes(image.to_bytes())
    changes = {
        "datatype": (70, struct.pack("<h", 9999)),
        "codes": (252, struct.pack("<hh", 77, 88)),
        "magic": (344, b"\x1b[3m"),
        "whole": (344, whole[344:348]),
    }
    for name, (at, value) in changes.items():
        data = whole[:at] + value + whole[at + len(value) :]
        (folder / f"{NAME} {name}.nii").write_bytes(data)
    # An extension whose size is no multiple of 16, and a file that is named as what it is not.
    offset = struct.pack("<f", 384)
    extension = b"\1\0\0\0" + struct.pack("<ii", 23, 6) + NAME.encode().ljust(24, b"\0")
    extended = whole[:108] + offset + whole[112:348] + extension + whole[352:]
    (folder / "extended.nii").write_bytes(extended)
    (folder / f"{NAME}.nii.gz").write_bytes(b"not gzip")
    (folder / f"{NAME}.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"\x1b" * 300)


def stderr_of(*words: str | Path) -> str:
    """What a command that succeeds prints to stderr, where each warning of Python counts."""
    done = subprocess.run(
        [sys.executable, "-m", "flows.command", *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": str(PROJECT), "PYTHONWARNINGS": "always"},
    )
    assert done.returncode == 0, done.stderr
    return done.stderr
