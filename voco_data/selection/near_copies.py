"""Near copies: the same scan in another reconstruction, under the ids of two patients.

A soft and a sharp kernel, or thin and thick slices, give other pixels of the same body. Equal
content digests do not find them. Each stored volume is therefore reduced to a signature: means of
16 x 24 x 24 blocks, and the differences between neighbouring blocks. The cosine of two signatures
is near 1 for two reconstructions of one scan. docs/splits.md has what was measured.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from voco_data.store import Store
from voco_data.volumes import Voxels

log = logging.getLogger(__name__)

BLOCKS = (16, 24, 24)
"""Blocks along z, y and x; fewer if the volume has fewer voxels."""
MIN_COSINE = 0.94
"""Least cosine of near copies."""
MIN_DIFFERENCES = 1000
"""Signatures with fewer numbers may be alike by chance: grids that small are not searched."""
THREADS = 8
MAX_SHARE = 0.2
"""Largest share of the patients in such pairs. Above it, and above `FEW_PATIENTS`, the volumes are
too alike to tell copies: real archives have few copies, made-up volumes may all be alike."""
FEW_PATIENTS = 4
_VOLUMES_PER_PRODUCT = 512
"""Rows and columns of the cosines that are in memory at once."""

Floats = npt.NDArray[np.float32]


def find_near_copies(store: Store) -> list[tuple[str, str]]:
    """Pairs of patients of `store` who have a near copy of one volume, sorted.

    Reads every volume once. Memory is 53 kB a volume; time grows with the square of their number.
    Returns no pair, with a warning, if too many patients are alike.
    """
    table = store.catalogue
    rows = [int(row) for row in table["row"]]
    patients = [str(patient) for patient in table["patient_id"]]
    if len(set(patients)) < 2 or _count_differences(store.grid) < MIN_DIFFERENCES:
        return []

    def read(row: int) -> npt.NDArray[np.float16]:
        return make_signature(store.read(row)).astype(np.float16)

    with ThreadPoolExecutor(THREADS) as pool:
        signatures = np.stack(list(pool.map(read, rows)))
    pairs = sorted(set(_pairs_of_patients(signatures, patients)))
    alike, count = len({patient for pair in pairs for patient in pair}), len(set(patients))
    if alike > max(FEW_PATIENTS, MAX_SHARE * count):
        log.warning(
            "near copies: the volumes of %d of %d patients are alike, too many to be copies of one "
            "another; no patients are kept together for it",
            alike,
            count,
        )
        return []
    return pairs


def make_signature(volume: Voxels) -> Floats:
    """The differences between neighbouring blocks of a volume (Z, Y, X), of norm 1.

    Of a volume without any difference, all are 0: it is no copy of anything.
    """
    means = np.asarray(volume, np.float32)
    for axis, most in enumerate(BLOCKS):
        size = means.shape[axis]
        starts = np.arange(min(most, size)) * size // min(most, size)
        lengths = np.diff(starts, append=size).astype(np.float32)
        sums: Floats = np.add.reduceat(means, starts, axis=axis)
        means = sums / lengths.reshape([-1 if a == axis else 1 for a in range(3)])
    differences: Floats = np.concatenate([np.diff(means, axis=axis).ravel() for axis in range(3)])
    norm = float(np.linalg.norm(differences))
    if norm > 0:
        differences /= norm
    return differences


def _count_differences(shape: tuple[int, int, int]) -> int:
    """Numbers in the signature of a volume of this shape."""
    z, y, x = (min(most, size) for most, size in zip(BLOCKS, shape, strict=True))
    return (z - 1) * y * x + z * (y - 1) * x + z * y * (x - 1)


def _pairs_of_patients(
    signatures: npt.NDArray[np.float16], patients: Sequence[str]
) -> list[tuple[str, str]]:
    """Pairs of different patients with signatures (N, D) that are alike, in alphabetical order."""
    ids = np.array(patients)
    starts = range(0, len(ids), _VOLUMES_PER_PRODUCT)
    pairs: list[tuple[str, str]] = []
    for i in starts:
        first = signatures[i : i + _VOLUMES_PER_PRODUCT].astype(np.float32)
        for j in range(i, len(ids), _VOLUMES_PER_PRODUCT):
            second = signatures[j : j + _VOLUMES_PER_PRODUCT].astype(np.float32)
            for a, b in zip(*np.nonzero(first @ second.T >= MIN_COSINE), strict=True):
                one, other = sorted((str(ids[i + a]), str(ids[j + b])))
                if one != other:
                    pairs.append((one, other))
    return pairs
