"""What nobody can go below with these parts: read, decode, hash once, box, resample, write.

No header is parsed, nothing is checked, and there is no record and no preview. The decoder is
whichever is faster: imagecodecs' into a reused buffer, or our kernel.
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

from voco_data.cropping.abdomen import find_box
from voco_data.dicom.pixels.rle import SLACK, planes_to_hu, rle_planes
from voco_data.dicom.series.fast_reader import Decoder, integer_rescale
from voco_data.dicom.series.header_scan import header_scanner
from voco_data.preprocessing.resample import resample_to_uint8
from voco_data.store.spec import FINETUNE, PRETRAIN
from voco_data.volumes.volume import AIR_HU

Decode = Callable[[npt.NDArray[np.uint8], int, int, npt.NDArray[np.int16]], None]


def prepare(folder: Path, out: Path) -> Callable[[], None]:
    """Both grids of the RLE series in `folder`; places and frames are known beforehand."""
    reader, decoder = header_scanner(), Decoder()
    found = []
    for path in folder.iterdir():
        read = decoder.read(path)
        plain = None if read is None else reader.slice(*read, path)
        if plain is None or plain[0].kind.decoding is None:
            raise RuntimeError(f"{path.name} is not read the quick way")
        found.append((plain[0].header.position_mm[2], path, *plain))
    found.sort(key=lambda item: item[0])
    header, kind = found[0][2].header, found[0][2].kind
    shape = (len(found), header.rows, header.columns)
    spacing_mm = (found[1][0] - found[0][0], *header.spacing_mm)
    frames = [(str(path), start, length) for _, path, _, start, length in found]
    how = kind.decoding
    integers = None if how is None else integer_rescale(how.pixels, how.modality)
    if integers is None:
        raise RuntimeError("the benchmark's series is not linear")
    arena = np.zeros(shape, np.int16)
    buffer = np.zeros(2 * max(length for *_, length in frames) + SLACK, np.uint8)
    planes = [np.zeros(header.rows * header.columns + SLACK, np.uint8) for _ in range(2)]
    decode_rle: Any = imagecodecs.dicomrle_decode
    mixed = np.zeros(header.rows * header.columns * 2, np.uint8)

    def kernel(
        data: npt.NDArray[np.uint8], start: int, length: int, plane: npt.NDArray[np.int16]
    ) -> None:
        rle_planes(data, start, length, planes[0], planes[1], plane.size)
        planes_to_hu(planes[0], planes[1], *integers.arguments, plane.reshape(-1))

    def codec(
        data: npt.NDArray[np.uint8], start: int, length: int, plane: npt.NDArray[np.int16]
    ) -> None:
        decode_rle(data.data[start : start + length], "<u2", out=mixed)
        planes_to_hu(mixed[1::2], mixed[::2], *integers.arguments, plane.reshape(-1))

    def read_all(decode: Decode) -> None:
        for index, (path, start, length) in enumerate(frames):
            with open(path, "rb", buffering=0) as file:  # noqa: PTH123  what a Path adds is not the floor
                file.readinto(buffer.data)
            decode(buffer, start, length, arena[index])

    decode = min((kernel, codec), key=lambda each: _seconds(lambda: read_all(each)))

    def run() -> None:
        read_all(decode)
        xxhash.xxh3_128_digest(arena.data)
        box = find_box(arena, spacing_mm, crop=PRETRAIN.crop, margin_mm=PRETRAIN.margin_mm)
        for spec in (PRETRAIN, FINETUNE):
            window = (spec.window_low_hu, spec.window_width_hu, AIR_HU)
            grey = resample_to_uint8(arena, box.start, box.stop, spec.grid, *window)
            (out / spec.profile).write_bytes(grey.data)

    return run


def _seconds(run: Callable[[], None]) -> float:
    run()  # compiled, and in the cache
    began = time.perf_counter()
    run()
    return time.perf_counter() - began
