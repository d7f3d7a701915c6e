"""The three losses of 2D-VoCo, as functions of embeddings and of cosines.

Equations are those of the 2D-VoCo paper (arXiv 2601.14593). The printed equation 1 lacks the target
r. Here it is -log(1 - |r - s|), where s is the cosine, as in the paper's text and in both code
bases. All losses are computed in float32, also under autocast.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from voco_data.errors import InputError
from voco_models.recorded_options import WHEN_CHANGED

LOG_FLOOR = 0.01
"""Below this value of 1 - |r - s|, the tangent continues -log. So a cosine of the wrong sign still
has a gradient, at most 1 / LOG_FLOOR times the gradient where r = s."""
LEGACY_EPSILON = 1e-6
"""The authors' code adds it inside the logarithm."""
TINY = 1e-6
"""Smallest sum of weights in a denominator."""


@dataclass(frozen=True, slots=True)
class LossOptions:
    """The variant of each loss."""

    form: Literal["weighted", "plain"] = "weighted"
    """`weighted`: sum(-r log(1 - |r - s|)) / sum(r), plus a term for cells with r = 0.
    `plain`: the mean of -log(1 - |r - s|) over all cells."""
    negatives: Literal["square", "log"] = "square"
    """Term for cells with r = 0 in the weighted form: mean of s^2, or of -log(1 - |s|)."""
    legacy_clamp: bool = False
    """Clamp cosines to [0, 1] first, as the authors do. The gradient is then 0 where s <= 0."""
    direction: Literal["one_way", "symmetric"] = "one_way"
    """Cosines of student random x teacher base crops, or their mean with teacher x student."""
    inter: Literal["next", "all_pairs", "off"] = "next"
    """Pairs of the inter-volume loss: volumes i and i + 1 of the batch, or all volumes i != j."""
    reg: Literal["squared", "abs", "off"] = "squared"
    """Loss of base crops: mean ReLU(cos)^2 with one side detached, or the paper's mean |cos|."""
    inter_target: Literal["teacher", "overlap"] = field(default="teacher", metadata=WHEN_CHANGED)
    """Target of the inter-volume loss: the teacher's cosine (equation 2), or the overlap of the two
    boxes, as if both crops were of one volume. The boxes of the body must then be alike."""

    @property
    def uses_one_side(self) -> bool:
        """Whether the student's random crops and the teacher's base crops are all that is used."""
        no_student_base = self.inter == "off" or self.inter_target == "overlap"
        return self.direction == "one_way" and self.reg == "off" and no_student_base

    def __post_init__(self) -> None:
        choices = {
            "form": ("weighted", "plain"),
            "negatives": ("square", "log"),
            "direction": ("one_way", "symmetric"),
            "inter": ("next", "all_pairs", "off"),
            "inter_target": ("teacher", "overlap"),
            "reg": ("squared", "abs", "off"),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise InputError(f"loss: {name} must be one of {allowed}")


def cosines(a: Tensor, b: Tensor) -> Tensor:
    """float32 (..., n, m): cosines of the rows of `a` (..., n, D) and of `b` (..., m, D)."""
    with torch.autocast(a.device.type, enabled=False):
        return functional.normalize(a.float(), dim=-1) @ functional.normalize(b.float(), dim=-1).mT


def agreement_loss(cosine: Tensor, target: Tensor, options: LossOptions) -> Tensor:
    """Equation 1: a scalar, 0 where `cosine` (..., n, m) equals `target` (..., n, m) >= 0.

    The mean over the values of all n x m matrices; a matrix belongs to one volume.
    """
    if options.legacy_clamp:
        cosine = cosine.clamp(0, 1)
        cells = -torch.log(1 - (target - cosine).abs() + LEGACY_EPSILON)
    else:
        cells = minus_log_one_minus((target - cosine).abs())
    if options.form == "plain":
        return cells.mean()
    matrix = (-2, -1)
    positive = (target * cells).sum(matrix) / target.sum(matrix).clamp(min=TINY)
    is_zero = (target == 0).float()
    zero_cells = cosine.square() if options.negatives == "square" else cells
    negative = (is_zero * zero_cells).sum(matrix) / is_zero.sum(matrix).clamp(min=1)
    return (positive + negative).mean()


def minus_log_one_minus(distance: Tensor) -> Tensor:
    """-log(1 - d) for distances d in [0, 2]; its tangent where 1 - d is below `LOG_FLOOR`."""
    similarity = 1 - distance
    below = (LOG_FLOOR - similarity).clamp(min=0) / LOG_FLOOR
    return below - similarity.clamp(min=LOG_FLOOR).log()


def inter_cosines(random: Tensor, base: Tensor, pairs: Literal["next", "all_pairs"]) -> Tensor:
    """Cosines between random crops of one volume and base crops of another one.

    `random` is (B, ..., n, D), `base` (B, ..., m, D). `next` pairs volume i with i + 1, cyclically,
    and gives (B, ..., n, m). `all_pairs` gives every i != j: (B * (B - 1), ..., n, m). Raises
    InputError for a batch of fewer than 2 volumes.
    """
    batch = len(random)
    if batch < 2:
        raise InputError(
            f"loss: the inter-volume loss needs a batch of at least 2 volumes, got {batch}; "
            "use a larger batch_size or a recipe with inter off"
        )
    if pairs == "next":
        return cosines(random, base.roll(-1, dims=0))
    pairs_of_volumes = cosines(random[:, None], base[None, :]).flatten(end_dim=1)
    # Without the first of every B + 1 pairs, the diagonal. A mask would wait for the device: the
    # shape of its result depends on its values.
    rows = pairs_of_volumes[1:].reshape(batch - 1, batch + 1, *pairs_of_volumes.shape[1:])
    return rows[:, :-1].flatten(end_dim=1)


def inter_targets(target: Tensor, pairs: Literal["next", "all_pairs"]) -> Tensor:
    """Overlaps for the pairs of `inter_cosines`, from those within each volume.

    All volumes have the same base crops, so random crop k of volume i overlaps base crop l of every
    volume by `target` (B, n, m)[i, k, l].
    Returns (B, n, m) for `next`, and (B * (B - 1), n, m) for `all_pairs`.
    """
    if pairs == "next":
        return target
    return target.repeat_interleave(len(target) - 1, dim=0)


def inter_loss(student: Tensor, teacher: Tensor, options: LossOptions) -> Tensor:
    """Equation 2: `agreement_loss` of the student's `inter_cosines` with the teacher's as target.

    The teacher's cosines are detached and clamped to [0, 1], the range of overlaps.
    """
    return agreement_loss(student, teacher.detach().clamp(0, 1), options)


def reg_loss(base: Tensor, kind: Literal["squared", "abs"]) -> Tensor:
    """Equation 3: a penalty of cosines between embeddings (..., m, D) of one volume's base crops.

    A scalar, the mean over the m (m - 1) / 2 pairs; 0 for a single crop.
    """
    m = base.shape[-2]
    if m < 2:
        return base.new_zeros((), dtype=torch.float32)
    i, j = torch.triu_indices(m, m, offset=1, device=base.device)
    other = base.detach() if kind == "squared" else base
    pairs = cosines(base, other)[..., i, j]
    return pairs.relu().square().mean() if kind == "squared" else pairs.abs().mean()
