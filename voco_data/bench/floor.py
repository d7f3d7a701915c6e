"""A lower bound for the time of ours.fill_stores: the same kernels with the least other work.

It reads, decodes, hashes once, finds the box, resamples and writes. It parses no header, checks
nothing, and writes neither record nor preview. The decoder is the faster of two: imagecodecs' into
a reused buffer, and our kernel.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import numpy.typing as npt
import xxhash

from voco_data.cropping import find_box
from voco_data.dicom import (
    SLACK_BYTES,
    SliceDecoder,
    decode_rle_planes,
    header_scanner,
    integer_rescale,
    planes_to_hu,
)
from voco_data.preprocessing import resample
from voco_data.store import FINETUNE, PRETRAIN
from voco_data.volumes import AIR_HU

Decode = Callable[[npt.NDArray[np.uint8], int, int, npt.NDArray[np.int16]], None]
"""Decodes the frame data[start : start + length] into a plane: (data, start, length, plane)."""


def make_grids(folder: Path, out: Path) -> Callable[[], None]:
    """Make both grids of the RLE series in `folder`, whose headers are read before the call."""
    scanner, decoder = header_scanner(), SliceDecoder()
    slices = []
    for path in folder.iterdir():
        file = decoder.read_file(path)
        scanned_slice = None if file is None else scanner.scan_slice(*file, path)
        if scanned_slice is None:
            raise RuntimeError(f"{path.name} is not read by the fast path")
        slices.append(scanned_slice)
    slices.sort(key=lambda each: each.scanned.header.position_mm[2])
    first, second = (each.scanned.header for each in slices[:2])
    shape = (len(slices), first.rows, first.columns)
    spacing_mm = (second.position_mm[2] - first.position_mm[2], *first.spacing_mm)
    frames = [(str(each.scanned.header.path), each.start, each.length) for each in slices]
    decoding = slices[0].scanned.shared.decoding
    rescale = None if decoding is None else integer_rescale(decoding.pixels, decoding.modality)
    if rescale is None:
        raise RuntimeError("the benchmark's series is not rescaled in integers")
    hu = np.zeros(shape, np.int16)
    buffer = np.zeros(2 * max(length for *_, length in frames) + SLACK_BYTES, np.uint8)
    high, low = (np.zeros(first.rows * first.columns + SLACK_BYTES, np.uint8) for _ in range(2))
    decode_rle: Any = imagecodecs.dicomrle_decode
    interleaved = np.zeros(first.rows * first.columns * 2, np.uint8)

    def decode_by_kernel(
        data: npt.NDArray[np.uint8], start: int, length: int, plane: npt.NDArray[np.int16]
    ) -> None:
        decode_rle_planes(data, start, length, high, low, plane.size)
        planes_to_hu(high, low, *rescale.arguments, plane.reshape(-1))

    def decode_by_imagecodecs(
        data: npt.NDArray[np.uint8], start: int, length: int, plane: npt.NDArray[np.int16]
    ) -> None:
        decode_rle(data.data[start : start + length], "<u2", out=interleaved)
        planes_to_hu(interleaved[1::2], interleaved[::2], *rescale.arguments, plane.reshape(-1))

    def read_all(decode: Decode) -> None:
        for index, (path, start, length) in enumerate(frames):
            with open(path, "rb", buffering=0) as file:  # noqa: PTH123  Path.open costs more
                file.readinto(buffer.data)
            decode(buffer, start, length, hu[index])

    decode = min(
        (decode_by_kernel, decode_by_imagecodecs),
        key=lambda candidate: _seconds(lambda: read_all(candidate)),
    )

    def run() -> None:
        read_all(decode)
        xxhash.xxh3_128_digest(hu.data)
        box = find_box(hu, spacing_mm, crop=PRETRAIN.crop, margin_mm=PRETRAIN.margin_mm)
        for spec in (PRETRAIN, FINETUNE):
            voxels = resample(hu, box.start, box.stop, spec.grid, spec.window, AIR_HU)
            (out / spec.profile).write_bytes(voxels.data)

    return run


def _seconds(run: Callable[[], None]) -> float:
    run()  # compiles, and fills the cache
    began = time.perf_counter()
    run()
    return time.perf_counter() - began
