"""Whether the values of a volume can be HU, from a sample of its voxels.

HU are fixed by physics: air is -1000, fat about -100, soft tissue 0 to 80, up to 150 with contrast
medium; hardly any voxel is denser than bone. So a wrong slope, a missing or repeated intercept, an
image of 8 bits, noise, a damaged code stream and values that wrapped around all show in the
histogram, or in neighbouring voxels. Values that scanners and exports write on purpose are no
faults: padding outside the field of view (one value far below air), and HU that are clipped at both
ends (one value at each end).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from voco_data.errors import SeriesRefused
from voco_data.reasons import Reason
from voco_data.volumes.hu_sample import (
    DENSE_HU,
    INT16,
    LOWEST_HU,
    LUNG_HU,
    SOFT_TISSUE_HU,
    HuSample,
    count_hu,
    sample_steps,
)

LIGHT_HU = (-1200, -50)
"""Exclusive bounds of air, lung and fat."""
HIGHEST_HU = 3100
"""Scanners of 12 bits end at 3071 HU. Higher ones are metal, on an extended scale."""
MIN_LIGHT_SHARE = 0.001
"""Of all voxels, air, lung or fat."""
MIN_SOFT_SHARE = 0.002
"""Of the voxels that are not padding, soft tissue. A newborn in a wide field of view has 0.01."""
BODY_HU = -900
"""Lower HU are air, around the body and in it."""
MIN_SOFT_OF_BODY = 0.04
"""Of the voxels above BODY_HU, soft tissue. Bone and metal alone reach 0.03 if the intercept is
applied twice."""
MIN_SOFT_OF_TISSUE = 0.25
"""Of the tissue (above TISSUE_HU), soft tissue."""
MAX_LOW_SHARE = 0.05
"""Of the voxels that are not padding, those below LOWEST_HU."""
MAX_DENSE_OF_TISSUE = 0.25
"""Of the tissue, those above DENSE_HU."""
MAX_HIGH_SHARE = 0.1
"""Of all voxels, those above HIGHEST_HU."""
MAX_SATURATED_SHARE = 0.01
"""Of all voxels, those at the upper end of int16: more is no metal."""
MAX_CONSTANT_SHARE = 0.998
"""Largest share of one value."""
SHIFTED_HU = (800, 1150)
"""Soft tissue without its intercept."""
MAX_SHIFTED_OF_TISSUE = 0.15
CANCELLOUS_HU = (250, 600)
"""Any body has more bone of this density than in SHIFTED_HU, and so has contrast medium."""
EMPTY_HU = (-780, -250)
"""Between lung and fat. The lungs of a child, or in expiration, spread over more HU than this."""
EMPTY_WIDTH_HU = 40
MAX_EMPTY_SHARE = 0.2
"""Largest share of all voxels in a part of EMPTY_HU of that width: more is air on another scale."""
MISPLACED_HU = (-850, -250)
MISPLACED_WIDTH_HU = 150
MAX_MISPLACED_SHARE = 0.15
"""If the lightest voxels lie in MISPLACED_HU, with more than this share of all voxels in
MISPLACED_WIDTH_HU from there on, they are air on another scale. Lung has lighter voxels too."""
MAX_ABOVE_CLIP_SHARE = 0.1
"""The same for a frequent value, with the EMPTY_WIDTH_HU above it: HU that were clipped leave few
there, and air on another scale has noise."""
FAT_HU, FAT_WIDTH_HU, MAX_FAT_SHARE = (-250, -60), 10, 0.12
"""In a file without air, no FAT_WIDTH_HU of FAT_HU hold more of the voxels: fat has noise. In real
scans it was 0.07 or less. Air with a tenth of its slope has more."""
LOWEST_AIR_HU = -1110
"""The median of air, of noise too, is above."""
MIN_AIR_SHARE = 0.15
"""Of the voxels that are not padding, air, for its median to tell the intercept."""
MIN_PEAK_WIDTH_HU, WATER_HU = 12, 20
"""In a file without air, the highest peak of tissue, at half of its height, is wider, or farther
from 0 HU. In real scans it was 27 HU wide or more. With a tenth of the slope its width is that of
the smoothing (`HuSample.soft_peak`), and all tissue is near 0 HU."""
STRETCHED_HU = (700, 1500)
"""Highest value of a window that was stretched, as of one to -1000 and 1000."""
BELOW_SOFT_HU, FAT_OF_LIGHT_HU, MIN_FAT_OF_LIGHT = (-800, -30), (-200, -30), 0.48
"""In a stretched window, fat lies lower: it is a smaller share of what is below soft tissue. Real
scans with as little fat, and much lung, have hardly any voxel at their highest value."""
INT8 = (-128, 127)
MIN_LIKENESS = 0.1
"""1 for neighbours that are equal, 0 for noise without any object."""
MAX_SLICE_SHARE = 0.25
"""Of the voxels of one slice, those above DENSE_HU, or those below LOWEST_HU."""
MAX_WRAPPED_SHARE = 0.003
"""Of neighbours, those of metal and air: edges of metal are blurred, wrapped values have none."""
MAX_8_BIT = 255


def check_hu(hu: npt.NDArray[np.int16]) -> None:
    """Raise SeriesRefused(NOT_HU) unless `hu`, (slice, row, column), can be HU of a body.

    The detail gives the cause and the figures.
    """
    sample = HuSample.from_volume(hu)
    fault = find_fault(sample)
    if fault:
        raise SeriesRefused(Reason.NOT_HU, f"{fault}; {sample.figures()}")
    fault = find_slice_fault(sample, hu)
    if fault:
        raise SeriesRefused(Reason.NOT_HU, fault)


def find_fault(sample: HuSample) -> str:
    """Why the values cannot be HU; empty if they can."""
    kinds = (_range_faults, _window_faults, _scale_faults, _noise_faults)
    return next(itertools.chain.from_iterable(kind(sample) for kind in kinds), "")


def _range_faults(sample: HuSample) -> Iterator[str]:
    """Values that are all equal, or that no body has."""
    value = int(sample.counts.argmax())
    share = sample.counts[value] / sample.n
    if sample.counts[value] == sample.n:
        yield f"every voxel is {value + INT16.min} HU"
    if share > MAX_CONSTANT_SHARE:
        yield f"{share:.2%} of the voxels are {value + INT16.min} HU"
    share = sample.share(INT16.max, INT16.max)
    if share > MAX_SATURATED_SHARE:
        yield f"{share:.1%} of the voxels are beyond 16 bits"
    share = sample.share(HIGHEST_HU + 1, INT16.max)
    if share > MAX_HIGH_SHARE:
        yield f"{share:.1%} of the voxels are above {HIGHEST_HU} HU, denser than bone"
    share = count_hu(sample.measured, INT16.min, LOWEST_HU - 1) / max(1, sample.n_measured)
    if share > MAX_LOW_SHARE:
        yield f"{share:.1%} of the voxels are below {LOWEST_HU} HU, lighter than air"
    low, high = LIGHT_HU
    if sample.share(low + 1, high - 1) < MIN_LIGHT_SHARE:
        present = np.flatnonzero(sample.measured) + INT16.min
        is_8_bit = present.size > 0 and 0 <= present[0] <= present[-1] <= MAX_8_BIT
        cause = "it is a window in 8 bits" if is_8_bit else "the intercept is missing"
        yield f"neither fat, lung nor air: {cause}, or it is not CT"


def _scale_faults(sample: HuSample) -> Iterator[str]:
    """A slope or an intercept with which soft tissue is not where it must be."""
    n_tissue = int(sample.tissue.sum())
    if sample.densest_share(EMPTY_HU, EMPTY_WIDTH_HU) > MAX_EMPTY_SHARE:
        yield "a peak between lung and fat, where no tissue lies: the slope is wrong"
    lightest = sample.lightest_hu()
    if MISPLACED_HU[0] < lightest < MISPLACED_HU[1] and _holds_air(sample, lightest):
        yield f"air lies at {lightest} HU: slope or intercept is wrong"
    air = sample.measured[: LUNG_HU - INT16.min]
    if air.sum() > MIN_AIR_SHARE * sample.n_measured:
        median = int(np.searchsorted(np.cumsum(air), air.sum() / 2)) + INT16.min
        if median < LOWEST_AIR_HU:
            yield f"air lies at {median} HU: slope or intercept is wrong"
    fat_share = sample.densest_share(FAT_HU, FAT_WIDTH_HU)
    if lightest > MISPLACED_HU[1] and not sample.is_clipped(lightest) and fat_share > MAX_FAT_SHARE:
        yield f"{fat_share:.0%} lie in {FAT_WIDTH_HU} HU where fat lies: the slope is wrong"
    peak, width = sample.soft_peak()
    if lightest > MISPLACED_HU[1] and width < MIN_PEAK_WIDTH_HU and abs(peak) < WATER_HU:
        yield f"soft tissue lies at {peak} HU, in {width} HU: the slope is wrong"
    if count_hu(sample.tissue, DENSE_HU + 1, INT16.max) > MAX_DENSE_OF_TISSUE * n_tissue:
        yield f"much of the tissue is above {DENSE_HU} HU, denser than bone"
    n_shifted = count_hu(sample.tissue, *SHIFTED_HU)
    n_cancellous = count_hu(sample.tissue, *CANCELLOUS_HU)
    if n_shifted > max(MAX_SHIFTED_OF_TISSUE * n_tissue, n_cancellous):
        yield "soft tissue lies at 1000 HU: the intercept is missing"
    n_soft = count_hu(sample.tissue, *SOFT_TISSUE_HU)
    n_body = count_hu(sample.measured, BODY_HU, INT16.max)
    if n_soft < max(
        MIN_SOFT_SHARE * sample.n_measured,
        MIN_SOFT_OF_BODY * n_body,
        MIN_SOFT_OF_TISSUE * n_tissue,
    ):
        yield "too little soft tissue: slope or intercept is wrong, or it is not a body"


def _window_faults(sample: HuSample) -> Iterator[str]:
    """A window that was mapped to other values."""
    lowest, highest = (np.flatnonzero(sample.measured)[[0, -1]] + INT16.min).tolist()
    if (lowest, highest) == INT8 and sample.is_clipped(lowest):
        yield "the values fill 8 bits: it is a window, or parts of values"
    is_stretched = STRETCHED_HU[0] <= highest <= STRETCHED_HU[1] and sample.is_clipped(highest)
    n_fat = count_hu(sample.measured, *FAT_OF_LIGHT_HU)
    if is_stretched and n_fat < MIN_FAT_OF_LIGHT * count_hu(sample.measured, *BELOW_SOFT_HU):
        yield f"many voxels are {highest} HU, and few are fat: a window was stretched"


def _noise_faults(sample: HuSample) -> Iterator[str]:
    """Neighbours that no object has."""
    if sample.likeness < MIN_LIKENESS:
        yield "voxels are not like their neighbours: noise without an object"
    if sample.wrapped_share > MAX_WRAPPED_SHARE:
        yield f"{sample.wrapped_share:.2%} are metal beside air: they wrapped around"


def find_slice_fault(sample: HuSample, hu: npt.NDArray[np.int16]) -> str:
    """Which slice of `hu`, the sampled volume, holds no HU; empty if all do."""
    n = sample.n / len(hu)
    for index in np.flatnonzero((sample.by_slice > MAX_SLICE_SHARE * n).any(axis=1)).tolist():
        row_step, column_step = sample_steps(hu)
        plane = hu[index, ::row_step, ::column_step]
        present, counts = np.unique(plane, return_counts=True)
        low = counts[(present < LOWEST_HU) & ~sample.padding[present.astype(int) - INT16.min]]
        # A blank slice has one value, of its own.
        n_low = int(low.sum()) if low.size > 1 else 0
        n_dense = int(counts[present > DENSE_HU].sum())
        if max(n_low, n_dense) > MAX_SLICE_SHARE * plane.size:
            return (
                f"slice {index + 1} of {len(hu)} holds no HU: {n_low / plane.size:.1%} of its "
                f"voxels are below {LOWEST_HU} HU, {n_dense / plane.size:.1%} above {DENSE_HU}"
            )
    return ""


def _holds_air(sample: HuSample, hu: int) -> bool:
    """Whether so many voxels are above `hu` that it is no value at which HU were clipped."""
    if sample.is_clipped(hu):
        return sample.share(hu + 1, hu + EMPTY_WIDTH_HU) > MAX_ABOVE_CLIP_SHARE
    return sample.share(hu, hu + MISPLACED_WIDTH_HU) > MAX_MISPLACED_SHARE
