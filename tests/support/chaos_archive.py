"""A small archive in two states, and the runs over it: what the tests that kill runs work on."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import nibabel
import numpy as np
import numpy.typing as npt

from tests.support.ct_files import body, write_slices
from voco_data.store.spec import StoreSpec

SPECS = (
    StoreSpec(profile="small", grid=(6, 24, 24)),
    StoreSpec(profile="other", grid=(4, 16, 16)),
)


def write_nifti(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    affine = np.diag([-2.0, -2.0, 5.0, 1.0])
    nibabel.save(nibabel.Nifti1Image(body(seed=seed).transpose(2, 1, 0), affine), path)


def write_series(folder: Path, patient: int, hu: npt.NDArray[np.int16], rle: bool = False) -> None:
    """A DICOM series whose id follows from its folder's name: rows are the same in every test."""
    uid = f"1.2.3.{int.from_bytes(folder.name.encode())}"
    tags = {"PatientID": f"patient-{patient}", "SeriesInstanceUID": uid}
    write_slices(folder, hu, rle=rle, tags=tags)


def make_archive(folder: Path) -> Path:
    """Eight series: five DICOM, one of them RLE, two NIfTI, and one that is refused."""
    for index in range(5):
        write_series(folder / f"d{index}", index, body(seed=index), rle=index == 3)
    write_series(folder / "short", 9, body(seed=9)[:4])
    write_nifti(folder / "n0.nii.gz", seed=20)
    write_nifti(folder / "n1.nii", seed=21)
    return folder


def make_second_state(first: Path, folder: Path) -> Path:
    """The archive later: a series changed in place, one gone, two new, one refused no longer."""
    shutil.copytree(first, folder)  # keeps the times of change
    write_series(folder / "d1", 1, body(seed=101))
    write_nifti(folder / "n1.nii", seed=121)
    shutil.rmtree(folder / "d4")
    write_series(folder / "e0", 3, body(seed=30))
    write_series(folder / "short", 9, body(seed=9))
    write_nifti(folder / "m.nii.gz", seed=31)
    return folder


def write_specs(path: Path, specs: tuple[StoreSpec, ...] = SPECS) -> Path:
    path.write_text("[" + ", ".join(spec.canonical_json() for spec in specs) + "]")
    return path


def words(archive: Path, root: Path, specs: Path, *more: str) -> list[str]:
    """The command line of a run."""
    line = ["preprocess", str(archive), "--root", str(root), "--spec-file", str(specs), "--json"]
    return [*line, *(more or ("--workers", "2"))]


def copy_root(source: Path, target: Path) -> Path:
    """A root as a killed or finished run left it. Hard links are not used: files may change."""
    shutil.copytree(source, target)
    os.utime(target)
    return target
