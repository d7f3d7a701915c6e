"""5,000 damaged files give a correct volume or a reason, within limits of time and memory."""

from __future__ import annotations

import functools
import multiprocessing
import time
import warnings
from collections import Counter
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK
from pydicom.uid import JPEGLSLossless, RLELossless

from tests.support.ct_files import body, write_slices
from tests.support.mutations import mutate
from voco_data.dicom.header import parse_header, read_dataset
from voco_data.dicom.series.reader import read_series
from voco_data.errors import SeriesRefused
from voco_data.masks.dicom_seg import read_seg
from voco_data.masks.nrrd import read_nrrd
from voco_data.masks.placement import MaskMisplacedError
from voco_data.nifti.reader import read_nifti
from voco_data.volumes.geometry import Geometry
from voco_data.volumes.slice_spacing import GapPolicy

FILES = 5_000
MOST_SECONDS = 10.0
MOST_BYTES = 2 * 2**30
SMALL = (16, 40, 40)


def made(folder: Path) -> list[Path]:
    """One file of every kind that the tests can write."""
    folder.mkdir()
    hu = body(SMALL)
    slices = write_slices(folder / "raw", hu)[:2]
    slices += write_slices(folder / "rle", hu, rle=True)[:2]
    for name, syntax in (("jls", JPEGLSLossless), ("rle_pydicom", RLELossless)):
        dataset = pydicom.dcmread(slices[0])
        dataset.compress(syntax)
        dataset.save_as(folder / f"{name}.dcm")
        slices.append(folder / f"{name}.dcm")
    affine = np.diag([2.0, 2.0, 5.0, 1.0])
    for name in ("a.nii", "a.nii.gz"):
        nibabel.save(nibabel.Nifti1Image(hu.transpose(2, 1, 0), affine), folder / name)
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(hu), str(folder / "a.nrrd"))
    return [*slices, folder / "a.nii", folder / "a.nii.gz", folder / "a.nrrd"]


def real(folder: Path) -> list[Path]:
    """The small real files, and two of each large series."""
    chosen: list[Path] = []
    for place in sorted({path.parent for path in folder.rglob("*") if path.is_file()}):
        if place != folder:
            files = sorted(path for path in place.iterdir() if path.is_file())
            chosen += files[:2] if len(files) > 22 else files
    return [path for path in chosen if path.stat().st_size < 3_000_000]


def partner_of(source: Path, number: int, folder: Path) -> Path:
    """The undamaged file, moved one step along its normal: two slices are a series."""
    path = folder / f"partner{number}.dcm"
    if path.exists():
        return path
    try:
        dataset = pydicom.dcmread(source, force=True)
        turn = np.array(dataset.ImageOrientationPatient, float)
        there = np.array(dataset.ImagePositionPatient, float) + 5 * np.cross(turn[:3], turn[3:])
        dataset.ImagePositionPatient = [round(float(x), 6) for x in there]
        dataset.save_as(path)
    except (AttributeError, TypeError, ValueError):
        path.write_bytes(source.read_bytes())
    return path


@functools.cache
def grid_of(source: Path) -> Geometry:
    """The grid of the series that an undamaged mask belongs to."""
    if source.suffix == ".nrrd":
        image = SimpleITK.ReadImage(str(source))
        size, spacing, origin = image.GetSize(), image.GetSpacing(), image.GetOrigin()
        columns = np.array(image.GetDirection()).reshape(3, 3).T
        axes = tuple(tuple(axis) for axis in columns[::-1].tolist())
        return Geometry(size[::-1], spacing[::-1], origin, axes)
    slices = [path for path in source.parent.glob("*.dcm") if "seg" not in path.name]
    return read_series(slices, gaps=GapPolicy(0.05), min_slices=2).geometry


def examine(path: Path, source: Path, partner: Path) -> str:
    """The result for one damaged file: `volume`, `mask` or a reason."""
    try:
        if source.name.endswith((".nii", ".nii.gz")):
            volume = read_nifti(path, min_slices=2)
            assert volume.hu.shape == volume.geometry.shape
        elif source.suffix == ".nrrd":
            read_nrrd(path, grid_of(source))
            return "mask"
        elif "seg" in source.name:
            read_seg(path, grid_of(source))
            return "mask"
        else:
            parse_header(read_dataset(path, pixels=False), path)
            volume = read_series([path, partner], gaps=GapPolicy(0.05), min_slices=2)
            dataset = pydicom.dcmread(path, force=True)
            assert volume.hu.shape[1:] == (dataset.Rows, dataset.Columns)
            assert volume.hu.shape[0] >= 2
        assert np.isfinite(volume.geometry.index_to_mm).all()
    except MaskMisplacedError:
        return "misplaced"
    except SeriesRefused as refused:
        return str(refused.reason)
    return "volume"


def peak_bytes() -> int:
    """Peak resident memory of this process; `ru_maxrss` would include its parent's."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split("VmHWM:")[1].split()[0])


def batter(sources: list[Path], folder: Path, seeds: range, results: object) -> None:
    """Read damaged copies in this process; report (result, seconds, peak bytes) of each."""
    warnings.simplefilter("ignore")  # pydicom's, about damaged headers
    for seed in seeds:
        number = seed % len(sources)
        source = sources[number]
        path = folder / f"damaged{''.join(source.suffixes[-2:])[-8:]}"
        path.write_bytes(mutate(source.read_bytes(), seed))
        partner = partner_of(source, number, folder)
        began = time.monotonic()
        try:
            said = examine(path, source, partner)
        except Exception as error:
            results.put((f"{source.name}, seed {seed}: {error!r}", 0.0, 0))  # type: ignore[attr-defined]
            raise
        peak = peak_bytes()
        results.put((said, time.monotonic() - began, peak))  # type: ignore[attr-defined]


def check(sources: list[Path], folder: Path, seeds: range) -> Counter[str]:
    """Read damaged copies in a process of its own, which a crash ends."""
    context = multiprocessing.get_context("spawn")
    results = context.SimpleQueue()
    folder.mkdir()
    process = context.Process(target=batter, args=(sources, folder, seeds, results))
    process.start()
    said: Counter[str] = Counter()
    while sum(said.values()) < len(seeds) and (process.is_alive() or not results.empty()):
        if results.empty():
            process.join(0.01)
            continue
        word, seconds, peak = results.get()
        said[word] += 1
        assert seconds < MOST_SECONDS
        assert peak < MOST_BYTES
    process.join()
    assert process.exitcode == 0, said.most_common()
    assert sum(said.values()) == len(seeds)
    return said


def test_damaged_files_of_our_own(tmp_path: Path) -> None:
    said = check(made(tmp_path / "made"), tmp_path / "out", range(1_000))
    assert said["unreadable"] > 100
    assert said["volume"] > 20  # a flipped bit in a value cannot be detected


@pytest.mark.real_ct
@pytest.mark.parametrize(
    "seeds", [range(1_000, 1_350), pytest.param(range(1_350, FILES), marks=pytest.mark.slow)]
)
def test_damaged_real_files(real_ct: Path, tmp_path: Path, seeds: range) -> None:
    said = check(real(real_ct), tmp_path / "out", seeds)
    assert said["unreadable"] > len(seeds) / 8
