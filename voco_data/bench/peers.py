"""From one series to both grids with other libraries, each as its documentation advises.

Each function `peer(folder, out)` imports its library and returns the call to time, which reads the
DICOM files in `folder` and saves a grid of stored voxels for each spec as .npy in `out`. Peers have
no box, checksum, record or preview; they resample the whole volume.

Libraries are imported inside the functions: a row of the benchmark loads only its own, and any of
them may be absent.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from voco_data.store import FINETUNE, PRETRAIN
from voco_data.volumes import Voxels

GRIDS = (PRETRAIN.grid, FINETUNE.grid)
WINDOW = PRETRAIN.window
PAD_HU = -1024


def quantise(hu: npt.NDArray[np.floating]) -> Voxels:
    """HU through the window to stored voxels, rounded half up."""
    values = (hu - WINDOW.low_hu) * WINDOW.steps_per_hu + (WINDOW.lowest + 0.5)
    return np.asarray(np.clip(values, WINDOW.lowest, WINDOW.highest), WINDOW.dtype)


def save(out: Path, hu: npt.NDArray[np.floating]) -> None:
    """Quantise a grid of HU (z, y, x) and write it as .npy, named by its number of slices."""
    np.save(out / f"{hu.shape[0]}.npy", quantise(hu))


def read_with_pydicom(folder: Path, dtype: type[np.floating]) -> npt.NDArray[np.floating]:
    """HU (z, y, x) as most scripts read them: pydicom, ordered by z, slope and intercept."""
    import pydicom

    slices = [pydicom.dcmread(path) for path in folder.iterdir()]
    slices.sort(key=lambda s: float(s.ImagePositionPatient[2]))
    planes = [
        s.pixel_array.astype(dtype) * dtype(s.RescaleSlope) + dtype(s.RescaleIntercept)
        for s in slices
    ]
    return np.stack(planes)


def naive(folder: Path, out: Path) -> Callable[[], None]:
    """Pydicom, float64, scipy.ndimage.zoom with its default order 3."""
    from scipy import ndimage

    def run() -> None:
        hu = read_with_pydicom(folder, np.float64)
        for grid in GRIDS:
            factors = [n / m for n, m in zip(grid, hu.shape, strict=True)]
            save(out, ndimage.zoom(hu, factors))

    return run


def torch_area(folder: Path, out: Path) -> Callable[[], None]:
    """Pydicom, then torch's `interpolate(mode="area")` in float32."""
    import torch

    torch.set_num_threads(1)

    def run() -> None:
        hu = torch.from_numpy(read_with_pydicom(folder, np.float32))[None, None]
        for grid in GRIDS:
            small = torch.nn.functional.interpolate(hu, size=grid, mode="area")
            save(out, small[0, 0].numpy())

    return run


def monai_area(folder: Path, out: Path) -> Callable[[], None]:
    """MONAI: `LoadImage` on the folder, then `Resize(mode="area")`.

    `LoadImage` chooses its reader: ITK's for DICOM where it is installed, else pydicom's.
    """
    import torch
    from monai.transforms.compose import Compose
    from monai.transforms.io.array import LoadImage
    from monai.transforms.spatial.array import Resize

    torch.set_num_threads(1)
    load = Compose([LoadImage(image_only=True, ensure_channel_first=True)])
    # MONAI's axes are (x, y, z).
    resize = [Resize(spatial_size=grid[::-1], mode="area") for grid in GRIDS]

    def run() -> None:
        image = load(str(folder))
        for to_grid in resize:
            small = np.asarray(to_grid(image))[0]
            save(out, small.transpose(2, 1, 0))

    return run


def torchio_linear(folder: Path, out: Path) -> Callable[[], None]:
    """TorchIO: `ScalarImage` on the folder, then `Resize`, whose default is linear."""
    import SimpleITK as sitk
    import torch
    import torchio

    torch.set_num_threads(1)
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    resize = [torchio.Resize(grid[::-1]) for grid in GRIDS]

    def run() -> None:
        image = torchio.ScalarImage(folder)
        for to_grid in resize:
            save(out, to_grid(image).numpy()[0].transpose(2, 1, 0))

    return run


def simpleitk_linear(folder: Path, out: Path) -> Callable[[], None]:
    """SimpleITK: its series reader, its linear resampling onto the grid."""
    import SimpleITK as sitk

    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)

    def run() -> None:
        reader = sitk.ImageSeriesReader()
        reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
        image = reader.Execute()
        for grid in GRIDS:
            size = grid[::-1]
            old = zip(image.GetSize(), image.GetSpacing(), size, strict=True)
            spacing = [n * step / m for n, step, m in old]
            # The outer edges of both grids coincide.
            shift = [
                (new - step) / 2 for new, step in zip(spacing, image.GetSpacing(), strict=True)
            ]
            rotated_shift = np.reshape(image.GetDirection(), (3, 3)) @ shift
            small = sitk.Resample(
                image,
                size,
                sitk.Transform(),
                sitk.sitkLinear,
                (np.asarray(image.GetOrigin()) + rotated_shift).tolist(),
                spacing,
                image.GetDirection(),
                PAD_HU,
                sitk.sitkFloat32,
            )
            save(out, sitk.GetArrayViewFromImage(small))

    return run


def nnunet(folder: Path, out: Path) -> Callable[[], None]:
    """nnU-Net v2: SimpleITK, its default resampling of images (order 3, order 0 along z)."""
    import SimpleITK as sitk
    from nnunetv2.preprocessing.resampling.default_resampling import (
        resample_data_or_seg_to_shape,
    )

    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)

    def run() -> None:
        reader = sitk.ImageSeriesReader()
        reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
        image = reader.Execute()
        hu = sitk.GetArrayFromImage(image).astype(np.float32)[None]
        spacing = image.GetSpacing()[::-1]
        for grid in GRIDS:
            target = [s * n / m for s, n, m in zip(spacing, hu.shape[1:], grid, strict=True)]
            small = resample_data_or_seg_to_shape(
                hu, list(grid), spacing, target, is_seg=False, order=3, order_z=0
            )
            save(out, np.asarray(small)[0])

    return run


def pydicom_headers(folder: Path, out: Path) -> Callable[[], None]:  # noqa: ARG001
    """The headers that the index needs, by pydicom alone: the values of `ours.read_headers`."""
    from voco_data.dicom import make_stack_key, parse_header, read_dataset

    paths = sorted(folder.iterdir())

    def run() -> None:
        for path in paths:
            dataset = read_dataset(path, pixels=False)
            parse_header(dataset, path)
            make_stack_key(dataset)

    return run
