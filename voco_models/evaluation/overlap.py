"""How well predicted maps cover true ones: Dice and HD95, by sample and channel.

A probability above 0.5 is predicted. Scores of empty maps:

==================  =====  =====
prediction, truth   Dice   HD95
==================  =====  =====
both empty          NaN    NaN     nothing to score
one of them empty   0      inf     missed, or invented
==================  =====  =====

`labelled` (N, C) says which channels the truth of a sample knows; the scores of others are NaN.
`summarise_scores` counts what a mean leaves out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from voco_data.errors import InputError
from voco_models.evaluation.metrics import FloatArray

BoolArray = npt.NDArray[np.bool_]

THRESHOLD = 0.5
PERCENTILE = 95.0


def dice_scores(
    probabilities: npt.NDArray[np.floating], truths: BoolArray, labelled: BoolArray | None = None
) -> FloatArray:
    """Dice (N, C) of probabilities (N, C, Z, W) and true maps of the same shape.

    Raises ValueError for shapes that do not match, and for probabilities not between 0 and 1.
    """
    predicted, known = _predicted(probabilities, truths, labelled)
    over = (2, 3)
    total = (predicted.sum(over) + truths.sum(over)).astype(np.float64)
    scored = known & (total > 0)
    both = (predicted & truths).sum(over)
    scores: FloatArray = np.full(total.shape, np.nan)
    np.divide(2.0 * both, total, out=scores, where=scored)
    return scores


def hd95_scores_mm(
    probabilities: npt.NDArray[np.floating],
    truths: BoolArray,
    spacings_mm: npt.ArrayLike,
    labelled: BoolArray | None = None,
) -> FloatArray:
    """`hd95_mm` (N, C) of probabilities (N, C, Z, W) and true maps of the same shape.

    `spacings_mm` is (2,), or (N, 2) by sample: distances of pixels along Z and W. Errors as in
    `dice_scores` and `hd95_mm`.
    """
    predicted, known = _predicted(probabilities, truths, labelled)
    spacings = np.broadcast_to(np.asarray(spacings_mm, np.float64), (len(truths), 2))
    scores = np.full(known.shape, np.nan)
    for sample, channel in np.argwhere(known):
        z_mm, w_mm = spacings[sample]
        maps = predicted[sample, channel], truths[sample, channel]
        scores[sample, channel] = hd95_mm(*maps, (float(z_mm), float(w_mm)))
    return scores


def hd95_mm(predicted: BoolArray, truth: BoolArray, spacing_mm: tuple[float, float]) -> float:
    """The 95th percentile of the Hausdorff distance of two maps (Z, W), in mm.

    The larger of two percentiles: of the distances from the edge pixels of one map to the nearest
    edge pixel of the other, and back. An edge pixel has one of its 4 neighbours outside the map;
    outside the image is outside the map. Distances are between centres of pixels. Raises InputError
    for a spacing that is not positive.
    """
    if not all(np.isfinite(spacing_mm)) or min(spacing_mm) <= 0:
        raise InputError(
            f"hd95: expected a spacing in mm above 0 along Z and W, got {spacing_mm}; use the "
            "spacing of the store's grid"
        )
    if not predicted.any() and not truth.any():
        return float("nan")
    if not predicted.any() or not truth.any():
        return float("inf")
    edges = edge_pixels(predicted), edge_pixels(truth)
    there = edge_distances_mm(edges[1], spacing_mm)[edges[0]]
    back = edge_distances_mm(edges[0], spacing_mm)[edges[1]]
    return float(max(np.percentile(there, PERCENTILE), np.percentile(back, PERCENTILE)))


def edge_pixels(mask: BoolArray) -> BoolArray:
    """Pixels of a map (Z, W) with at least one of 4 neighbours outside it."""
    padded = np.pad(mask, 1)
    inside = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask & ~inside


def edge_distances_mm(edges: BoolArray, spacing_mm: tuple[float, float]) -> FloatArray:
    """Distance (Z, W) from every pixel to the nearest edge pixel, exact.

    The squared distance is a minimum along Z, then along W, since its terms are separate.
    """
    along_z, along_w = (
        np.square((np.arange(n)[:, None] - np.arange(n)) * step)
        for n, step in zip(edges.shape, spacing_mm, strict=True)
    )
    cost = np.where(edges, 0.0, np.inf)
    in_column = np.stack([(cost + row[:, None]).min(axis=0) for row in along_z])
    squared = np.stack([(row + along_w).min(axis=1) for row in in_column])
    return np.asarray(np.sqrt(squared))


@dataclass(frozen=True, slots=True)
class ScoreSummary:
    """The mean of scores, and how many it is of."""

    mean: float
    """Of the finite scores; NaN if there are none."""
    n_finite: int
    n_infinite: int
    """Distances of maps of which one is empty. Report them beside the mean."""
    n_not_scored: int
    """NaN: both maps empty, or not labelled."""


def summarise_scores(scores: FloatArray) -> ScoreSummary:
    """Mean and counts of the scores of any shape that `dice_scores` or `hd95_scores_mm` gives."""
    finite = scores[np.isfinite(scores)]
    return ScoreSummary(
        mean=float(finite.mean()) if finite.size else float("nan"),
        n_finite=finite.size,
        n_infinite=int(np.isinf(scores).sum()),
        n_not_scored=int(np.isnan(scores).sum()),
    )


def _predicted(
    probabilities: npt.NDArray[np.floating], truths: BoolArray, labelled: BoolArray | None
) -> tuple[BoolArray, BoolArray]:
    """Predicted maps, and which samples and channels have labels."""
    if probabilities.shape != truths.shape or truths.ndim != 4 or truths.dtype != np.bool_:
        raise ValueError(
            "overlap: expected probabilities and bool truths (N, C, Z, W), got "
            f"{probabilities.shape} and {truths.dtype} {truths.shape}"
        )
    if not ((probabilities >= 0) & (probabilities <= 1)).all():
        raise ValueError("overlap: expected probabilities from 0 to 1; NaN and logits are neither")
    known = np.ones(truths.shape[:2], np.bool_) if labelled is None else labelled.astype(np.bool_)
    if known.shape != truths.shape[:2]:
        raise ValueError(
            f"overlap: expected labelled of shape {truths.shape[:2]}, got {known.shape}"
        )
    return probabilities > THRESHOLD, known
