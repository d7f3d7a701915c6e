"""An exported volume lies over the scan it was made from, as SimpleITK sees both."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import numpy.typing as npt
import pydicom
import pytest
import SimpleITK as sitk
from scipy.ndimage import map_coordinates

from flows.command import main
from tests.support.ct_files import body, write_slices
from tests.support.small_stores import make_store, random_volumes
from voco_data.errors import InputError
from voco_data.ingest.run import preprocess
from voco_data.maintenance.nifti_export import export_volume
from voco_data.store.spec import StoreSpec

SPEC = StoreSpec(profile="small", grid=(10, 40, 44), crop="none")
QUARTER = 0.25
"""A copy moved by so much of a voxel must be seen to be worse."""
NOT_MOVED = (0.0, 0.0, 0.0)
FINER = 4
"""Points along each axis of a voxel: a voxel is the average over what it covers."""

Floats = npt.NDArray[np.float64]
Sampler = Callable[[Floats], Floats]
"""(3, N) LPS mm (x, y, z) to HU; NaN outside the scan."""


def exported(source: Path, root: Path, *, spec: StoreSpec = SPEC, **options: Any) -> sitk.Image:
    specs = root.with_name(f"{root.name}.json")
    specs.write_text(spec.canonical_json())
    summary = preprocess(source, root, spec_file=specs, workers=1, keep_ids=True, **options)
    assert summary.stored == 1
    out = root.with_name(f"{root.name}.nii.gz")
    export_volume(summary.stores["small"], 0, out)
    return sitk.ReadImage(str(out))


def points_of(image: sitk.Image, shift: tuple[float, ...]) -> Floats:
    """(3, N) LPS mm of FINER³ points in every voxel, by SimpleITK's own geometry.

    All of them are moved by `shift` voxels along (x, y, z).
    """
    offsets = (np.arange(FINER) + 0.5) / FINER - 0.5
    axes = [
        (np.arange(n)[:, None] + offsets + moved).ravel()
        for n, moved in zip(image.GetSize(), shift, strict=True)
    ]
    index = np.stack(np.meshgrid(*axes, indexing="ij")).reshape(3, -1)
    matrix = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    return np.asarray(matrix @ index + np.asarray(image.GetOrigin())[:, None])


def correlation(image: sitk.Image, sample: Sampler, shift: tuple[float, ...] = NOT_MOVED) -> float:
    """Of the image and of the source, averaged over every voxel, then windowed."""
    x, y, z = image.GetSize()
    fine = sample(points_of(image, shift)).reshape(x, FINER, y, FINER, z, FINER)
    low = SPEC.window_low_hu
    source = np.clip(fine.mean(axis=(1, 3, 5)), low, low + SPEC.window_width_hu)
    known = np.isfinite(source)
    assert known.mean() > 0.2  # a tilted stack fills its upright box in part
    found = sitk.GetArrayFromImage(image).astype(float).T
    return float(np.corrcoef(found[known], source[known])[0, 1])


def itk_sampler(source: sitk.Image) -> Sampler:
    """By SimpleITK's geometry of the source; NaN outside."""
    inverse = np.linalg.inv(np.reshape(source.GetDirection(), (3, 3)) * source.GetSpacing())
    hu = sitk.GetArrayFromImage(source).astype(float)
    return lambda points: sampled(hu, inverse @ (points - np.array(source.GetOrigin())[:, None]))


def sampled(hu: Floats, index_xyz: Floats) -> Floats:
    """Linear, up to half a voxel beyond the centres at the rim; NaN outside."""
    index = index_xyz[::-1]
    size = np.array(hu.shape)[:, None]
    inside = ((index > -0.51) & (index < size - 0.49)).all(axis=0)
    values = map_coordinates(hu, np.clip(index, 0, size - 1), order=1)
    return np.where(inside, values, np.nan)


def header_sampler(files: list[Path]) -> Sampler:
    """By ImagePositionPatient and ImageOrientationPatient: true for tilted gantries too."""
    slices = sorted(map(pydicom.dcmread, files), key=lambda d: float(d.ImagePositionPatient[2]))
    first, last = slices[0], slices[-1]
    origin = np.array(first.ImagePositionPatient, float)
    along = (np.array(last.ImagePositionPatient, float) - origin) / (len(slices) - 1)
    row, column = np.array(first.ImageOrientationPatient, float).reshape(2, 3)
    dy, dx = map(float, first.PixelSpacing)
    inverse = np.linalg.inv(np.stack([row * dx, column * dy, along], axis=1))
    hu = np.stack(
        [d.pixel_array * float(d.RescaleSlope) + float(d.RescaleIntercept) for d in slices]
    )
    return lambda points: sampled(hu, inverse @ (points - origin[:, None]))


def lies_over(image: sitk.Image, sample: Sampler, *, at_least: float = 0.99) -> bool:
    """Whether the two are alike, and less alike when moved a quarter of a voxel either way."""
    here = correlation(image, sample)
    moves = (np.eye(3)[axis] * by for axis in range(3) for by in (-QUARTER, QUARTER))
    return here > at_least and all(here > correlation(image, sample, tuple(move)) for move in moves)


INTERPOLATED = 0.94
"""A scan that was resampled onto the patient's axes first is softer at its edges."""


def lumpy(shape: tuple[int, int, int] = (26, 60, 64)) -> npt.NDArray[np.int16]:
    """`body` with a pattern along z and a corner that is like no other: no symmetry is left."""
    hu = body(shape).astype(float)
    z, y, x = np.meshgrid(*(np.linspace(0, 1, n) for n in shape), indexing="ij")
    hu += 60 * np.sin(9 * z + 2 * x) + 50 * z - 70 * y * x
    return np.clip(hu, -1024, None).astype(np.int16)


def read_series(files: list[Path]) -> sitk.Image:
    return sitk.ReadImage([str(file) for file in files])


ORIENTATIONS = {
    "head first supine": ((1, 0, 0, 0, 1, 0), (0, 0, 5)),
    "feet first": ((1, 0, 0, 0, 1, 0), (0, 0, -5)),
    "prone": ((-1, 0, 0, 0, -1, 0), (0, 0, 5)),
    "coronal slices": ((1, 0, 0, 0, 0, -1), (0, 5, 0)),
    "sagittal slices": ((0, 1, 0, 0, 0, -1), (5, 0, 0)),
}


@pytest.mark.parametrize("name", ORIENTATIONS)
def test_upright_flipped_and_permuted_scans(tmp_path: Path, name: str) -> None:
    orientation, step = ORIENTATIONS[name]
    files = write_slices(
        tmp_path / "scan",
        lumpy(),
        spacing_mm=(5, 2, 2),
        step_mm=step,
        orientation=orientation,
        origin_mm=(11, -23, 40),
    )
    image = exported(tmp_path / "scan", tmp_path / "root")
    assert lies_over(image, itk_sampler(read_series(files)))


def test_a_few_degrees_off_the_axes_are_kept(tmp_path: Path) -> None:
    """Not resampled: the voxels stay the scanner's, and so do their axes."""
    turn = np.radians(4)
    row = (np.cos(turn), np.sin(turn), 0.0)
    column = (-np.sin(turn), np.cos(turn), 0.0)
    files = write_slices(tmp_path / "scan", lumpy(), orientation=(*row, *column))
    image = exported(tmp_path / "scan", tmp_path / "root")
    assert image.GetDirection()[1] != 0
    assert lies_over(image, itk_sampler(read_series(files)))


@pytest.mark.parametrize("degrees", [12.0, -20.0])
def test_a_tilted_gantry_lies_where_its_headers_say(tmp_path: Path, degrees: float) -> None:
    tilt = np.radians(degrees)
    files = write_slices(
        tmp_path / "scan", lumpy(), orientation=(1, 0, 0, 0, np.cos(tilt), np.sin(tilt))
    )
    image = exported(tmp_path / "scan", tmp_path / "root")
    assert np.allclose(np.reshape(image.GetDirection(), (3, 3)), np.eye(3))
    assert lies_over(image, header_sampler(files), at_least=INTERPOLATED)


def test_an_oblique_scan(tmp_path: Path) -> None:
    turn = np.radians(25)
    row = np.array([np.cos(turn), 0, np.sin(turn)])
    step = np.cross(row, [0, 1, 0]) * 5
    files = write_slices(
        tmp_path / "scan", lumpy(), orientation=(*row, 0, 1, 0), step_mm=tuple(step)
    )
    image = exported(tmp_path / "scan", tmp_path / "root")
    assert lies_over(image, itk_sampler(read_series(files)), at_least=INTERPOLATED)


@pytest.mark.parametrize("flips", [(1, 1, 1), (-1, 1, -1)])
def test_a_nifti_however_stored(tmp_path: Path, flips: tuple[int, int, int]) -> None:
    array = lumpy().transpose(2, 1, 0)[:: flips[0], :: flips[1], :: flips[2]]
    affine = np.diag([*(np.array([-2.0, -2.0, 5.0]) * flips), 1.0])
    affine[:3, 3] = (7, -13, 21)
    (tmp_path / "scan").mkdir()
    path = tmp_path / "scan" / "a.nii.gz"
    nibabel.save(nibabel.Nifti1Image(array, affine), path)
    image = exported(tmp_path / "scan", tmp_path / "root")
    assert lies_over(image, itk_sampler(sitk.ReadImage(str(path))))


def test_a_box_in_the_middle(tmp_path: Path) -> None:
    """A crop moves the grid, not the patient."""
    files = write_slices(tmp_path / "scan", lumpy(), tags={"SeriesInstanceUID": "1.2.9"})
    boxes = tmp_path / "boxes.csv"
    boxes.write_text(
        "series_uid,z_low_mm,z_high_mm,y_low_mm,y_high_mm,x_low_mm,x_high_mm,maker\n"
        "1.2.9,-71,-8,-33,41,-44,37,me\n"
    )
    spec = StoreSpec(profile="small", grid=(7, 20, 22), margin_mm=(0, 0, 0))
    image = exported(tmp_path / "scan", tmp_path / "root", spec=spec, boxes=boxes)
    size = np.array(image.GetSize()) * np.array(image.GetSpacing())
    assert size == pytest.approx((81, 74, 63), abs=10)
    assert lies_over(image, itk_sampler(read_series(files)))


def test_the_test_sees_a_shift_and_a_flip(tmp_path: Path) -> None:
    files = write_slices(tmp_path / "scan", lumpy())
    image = exported(tmp_path / "scan", tmp_path / "root")
    sample = itk_sampler(read_series(files))
    for axis, voxels in itertools.product(range(3), (1.0, -0.5)):
        moved = sitk.Image(image)
        index = [0.0, 0.0, 0.0]
        index[axis] = voxels
        moved.SetOrigin(image.TransformContinuousIndexToPhysicalPoint(index))
        assert not lies_over(moved, sample)
    for axis in range(3):
        turned = sitk.GetImageFromArray(np.flip(sitk.GetArrayFromImage(image), axis))
        turned.CopyInformation(image)
        assert not lies_over(turned, sample)


@pytest.mark.real_ct
@pytest.mark.parametrize(
    "path",
    ["01_tcga_coad_siemens_abdpelvis", "03_totalseg_nifti", "05_philips_phantom_gantry_tilt"],
)
def test_real_scans(real_ct: Path, tmp_path: Path, path: str) -> None:
    source = real_ct / path
    if path.startswith("03"):
        source /= "example_ct.nii.gz"
        sample = itk_sampler(sitk.ReadImage(str(source)))
    else:
        sample = header_sampler(list(source.iterdir()))
    image = exported(source, tmp_path / "root")
    assert lies_over(image, sample, at_least=INTERPOLATED)


def test_values_are_the_windows_hu(tmp_path: Path) -> None:
    """0 is the window's lower end, 255 its upper end, and the header says what they are."""
    volumes = random_volumes(1, (4, 8, 8))
    volumes[0, 0, 0, :3] = (0, 255, 102)
    store = make_store(tmp_path, volumes)
    summary = export_volume(store.path, 0, tmp_path / "a.nii")
    image = nibabel.load(tmp_path / "a.nii")
    assert np.asarray(image.dataobj)[:3, 0, 0].tolist() == [-150, 250, 10]
    assert image.get_data_dtype() == np.int16
    assert b"clipped to the window" in image.header["descrip"].tobytes()
    assert (int(image.header["qform_code"]), int(image.header["sform_code"])) == (1, 1)
    assert summary.window_hu == (-150.0, 250.0)
    assert sitk.ReadImage(str(tmp_path / "a.nii")).GetSize() == (8, 8, 4)


def test_what_cannot_be_exported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    store = make_store(tmp_path / "root", random_volumes(1, (4, 8, 8)))
    with pytest.raises(InputError, match="no volume has row 7"):
        export_volume(store.path, 7)
    with pytest.raises(InputError, match=r"ends in \.nii\.gz"):
        export_volume(store.path, 0, "a.dcm")
    with pytest.raises(InputError, match="an existing folder"):
        export_volume(store.path, 0, tmp_path / "nowhere" / "a.nii")
    assert main(["store", "export", str(store.path), "0", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["file"] == "small-0.nii.gz"
    assert main(["store", "export", str(store.path), "0"]) == 2
    assert "exists already" in capsys.readouterr().err
    assert main(["store", "export", str(tmp_path), "0"]) == 2
