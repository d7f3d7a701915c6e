"""The 2D-VoCo objective (arXiv 2601.14593): a student, an EMA teacher, and three losses.

With a 3D encoder, the same crops, targets and losses are those of 3D VoCo.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from voco_data.errors import InputError
from voco_models.data import Batch, InputWindow, IntensityAugment, VolumeAugment, normalise
from voco_models.networks import (
    EmbeddingLevel,
    Encoder,
    EncoderOptions,
    FeatureKind,
    StatisticsGuard,
    Teacher,
    cosine_schedule,
)
from voco_models.objectives.collapse import effective_rank
from voco_models.objectives.crops import Boxes, CropPlan, TargetMode, extract_crops, overlap_targets
from voco_models.objectives.draws import StepChoices, StepDraws
from voco_models.objectives.losses import (
    LossOptions,
    agreement_loss,
    cosines,
    inter_cosines,
    inter_loss,
    inter_targets,
    reg_loss,
)
from voco_models.objectives.signals import AgreementSignals
from voco_models.processes import gather_rows
from voco_models.recorded_options import WHEN_CHANGED
from voco_models.training import Objective

MAX_TURN_DEG = 30
"""Largest turn of volumes whose places are compared with those of others."""


@dataclass(frozen=True, slots=True)
class Voco2dConfig:
    """Settings of the method. Defaults are the paper's where the authors' code agrees with it."""

    grid: int = 3
    """Base crops per side."""
    n_random: int = 2
    """Random crops per volume."""
    encode_px: int | None = None
    """Side in pixels that crops are resized to before the backbone; None does not resize."""
    target: TargetMode = "overlap"
    """Target of a cosine: intersection / crop area (the code), or / union (the paper)."""
    level: EmbeddingLevel = "volume"
    """One embedding per crop column (features averaged over slices first), or one per slice."""
    feature: FeatureKind = "map"
    """Input of the projector: the whole feature map, or its average."""
    projector_width: int = 2048
    """Width of the projector's hidden layers."""
    embedding: int = 2048
    """Length of an embedding."""
    teacher: Literal["ema", "legacy"] = "ema"
    """`ema`, or `legacy` as in the authors' code; see `Teacher`."""
    momentum: float = 0.9
    """Momentum of the teacher at the first step."""
    momentum_end: float = 0.9
    """Momentum of the teacher at the horizon; half a cosine in between."""
    slice_stride: int = 1
    """Use every n-th slice, from a random first one. Steps are cheaper, and all slices are used."""
    slices: Literal["shared", "separate"] = field(default="shared", metadata=WHEN_CHANGED)
    """Whether random and base crops show the same slices, or slices from two random first ones.
    Crops of the same slices can be matched by their pixels; separate slices need `slice_stride`."""
    student_crops: Literal["all", "random"] = field(default="all", metadata=WHEN_CHANGED)
    """Crops that the student embeds. `random`: the teacher embeds the base crops, and nothing else
    is computed; the losses must not use more."""
    loss: LossOptions = field(default_factory=LossOptions)
    augment: IntensityAugment = field(default_factory=IntensityAugment)
    volume_augment: VolumeAugment = field(default_factory=VolumeAugment, metadata=WHEN_CHANGED)

    def __post_init__(self) -> None:
        if not (0 <= self.momentum <= 1 and 0 <= self.momentum_end <= 1):
            raise InputError("recipe: momentum and momentum_end must be from 0 to 1")
        if self.slice_stride < 1 or (self.encode_px is not None and self.encode_px < 1):
            raise InputError("recipe: slice_stride and encode_px must be at least 1")
        if self.student_crops not in ("all", "random"):
            raise InputError("recipe: student_crops must be all or random")
        if self.student_crops == "random" and not self.loss.uses_one_side:
            raise InputError(
                "recipe: student_crops = random needs loss.direction one_way, reg off, and "
                "inter off or inter_target overlap"
            )
        if self.slices not in ("shared", "separate"):
            raise InputError("recipe: slices must be shared or separate")
        if self.slices == "separate" and self.slice_stride < 2:
            raise InputError("recipe: separate slices need slice_stride >= 2")
        between = self.loss.inter != "off" and self.loss.inter_target == "overlap"
        turns = self.volume_augment
        if between and (turns.flip_x or turns.flip_y or turns.rotate_deg > MAX_TURN_DEG):
            raise InputError(
                "recipe: loss.inter_target = overlap compares places between volumes; set flip_x "
                f"and flip_y of volume_augment to 0, and rotate_deg to {MAX_TURN_DEG} at most"
            )
        if self.projector_width < 1 or self.embedding < 1:
            raise InputError("recipe: projector_width and embedding must be at least 1")
        if self.target not in ("overlap", "iou") or self.level not in ("volume", "slice"):
            raise InputError("recipe: target must be overlap or iou, level volume or slice")
        if self.feature not in ("map", "gap") or self.teacher not in ("ema", "legacy"):
            raise InputError("recipe: feature must be map or gap, teacher ema or legacy")

    @property
    def encoder_options(self) -> EncoderOptions:
        """The fields that an encoder is built from."""
        return EncoderOptions(
            encode_px=self.encode_px,
            level=self.level,
            feature=self.feature,
            projector_width=self.projector_width,
            embedding=self.embedding,
        )

    def slice_counts(self, slices: int) -> frozenset[int]:
        """Numbers of slices that crops of volumes of `slices` slices can have in a step."""
        stride = min(self.slice_stride, slices)
        return frozenset(len(range(first, slices, stride)) for first in range(stride))

    def crop_plan(self, plane: tuple[int, int]) -> CropPlan:
        """Crops of volumes of (Y, X) pixels. InputError if the grid does not divide them."""
        return CropPlan(plane, self.grid, self.n_random)


class _Embeddings(NamedTuple):
    """Embeddings of one network. Those that no loss uses may be missing: (B, 0, D)."""

    random: Tensor
    """(B, n, D) of random crops; (B, Z, n, D) at level `slice`."""
    base: Tensor
    """(B, m, D) of base crops; (B, Z, m, D) at level `slice`."""

    def gather(self) -> _Embeddings:
        """Those of the volumes of all processes."""
        return _Embeddings(gather_rows(self.random), gather_rows(self.base))


class Voco2d(Objective):
    """Trains an encoder so that the cosine between the embeddings of two crops is their overlap.

    All random draws are a function of the batch's seed and items, so the losses are a function of
    the weights and the batch; see `draws.py`.
    """

    base_corners: Tensor

    def __init__(
        self,
        encoder: Encoder,
        plane: tuple[int, int],
        config: Voco2dConfig,
        window: InputWindow,
    ) -> None:
        """`encoder` is the student; it takes crops of `config.crop_plan(plane).size`.

        `plane` is (Y, X) of the volumes in pixels, and `window` gives the stored values that the
        networks see. Raises InputError if the grid of crops does not divide the plane.
        """
        super().__init__()
        self.config = config
        self.window = window
        self.plan = config.crop_plan(plane)
        self.student = encoder
        self.teacher = Teacher(self.student, legacy=config.teacher == "legacy")
        self.register_buffer("base_corners", self.plan.base_boxes().corners, persistent=False)
        self._recompute = False
        self._guard = StatisticsGuard()
        self.signals = AgreementSignals()
        """Of the steps since they were last taken, for `CollapseWatch`."""

    def set_recompute(self, enabled: bool) -> None:
        """Compute the activations of the student's backbone again in the backward pass, or not.

        The statistics of batch norm are kept as the forward pass left them.
        """
        self.student.backbone.set_recompute(enabled)
        self._recompute = enabled

    def compile_backbones(self) -> None:
        """Compile both backbones in place. Names in checkpoints do not change."""
        self.student.backbone.compile()
        self.teacher.encoder.backbone.compile()

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Scalars: `loss` = `intra` + `inter` + `reg`, and three that are only logged.

        These are `intra_student` (see `_intra_student`; only if the student embeds base crops), the
        number of `nonfinite` cosines, and the effective `rank` of the student's embeddings: of base
        crops, or of random ones if it embeds only these.
        """
        self._guard.restore()
        # A monitor, which has no gradients, must not add to the signals of training.
        if torch.is_grad_enabled():
            return self.measure(batch, self.signals, join=True)
        return self.measure(batch, None)

    def measure(
        self, batch: Batch, signals: AgreementSignals | None, *, join: bool = False
    ) -> dict[str, Tensor]:
        """The scalars of `forward`; the step is added to `signals`.

        With `join`, they are those of the volumes of all processes, which must all call it.
        """
        options = self.config.loss
        crops, target = self.crops_and_targets(batch)
        student, teacher = self._embed(crops)
        if join:  # losses compare volumes of different processes
            student, teacher, target = student.gather(), teacher.gather(), gather_rows(target)
        cosine = cosines(student.random, teacher.base)
        if options.direction == "symmetric":
            cosine = (cosine + cosines(teacher.random, student.base)) / 2
        if cosine.dim() > target.dim():  # an embedding per slice: (B, Z, n, m)
            target = target[:, None].expand_as(cosine)
        if signals is not None:
            signals.add(cosine, target, teacher.base)
        intra = agreement_loss(cosine, target, options)
        inter = self._inter(student, teacher, target)
        reg = cosine.new_zeros(()) if options.reg == "off" else reg_loss(student.base, options.reg)
        scalars = {
            "loss": intra + inter + reg,
            "intra": intra,
            "inter": inter,
            "reg": reg,
            "nonfinite": (~cosine.isfinite()).sum(),
        }
        if self.config.student_crops == "random":
            return scalars | {"rank": effective_rank(student.random)}
        return scalars | {
            "rank": effective_rank(student.base),
            "intra_student": self._intra_student(student, target),
        }

    def _embed(self, crops: Tensor) -> tuple[_Embeddings, _Embeddings]:
        """Embeddings of the student and of the teacher."""
        n = self.config.n_random
        random_only = self.config.student_crops == "random"
        for_student, for_teacher = (crops[:, :n], crops[:, n:]) if random_only else (crops, crops)
        of_student = self.student(for_student)
        if self._recompute and torch.is_grad_enabled():
            self._guard.keep(self.student.backbone)
        of_teacher = self.teacher(for_teacher)
        if random_only:
            return (
                _Embeddings(of_student, of_student[..., :0, :]),
                _Embeddings(of_teacher[..., :0, :], of_teacher),
            )
        return (
            _Embeddings(of_student[..., :n, :], of_student[..., n:, :]),
            _Embeddings(of_teacher[..., :n, :], of_teacher[..., n:, :]),
        )

    def _inter(self, student: _Embeddings, teacher: _Embeddings, target: Tensor) -> Tensor:
        """The inter-volume loss; 0 if it is off."""
        options = self.config.loss
        if options.inter == "off":
            return target.new_zeros(())
        if options.inter_target == "overlap":
            between = inter_cosines(student.random, teacher.base, options.inter)
            return agreement_loss(between, inter_targets(target, options.inter), options)
        return inter_loss(
            inter_cosines(student.random, student.base, options.inter),
            inter_cosines(teacher.random, teacher.base, options.inter),
            options,
        )

    @torch.no_grad()
    def _intra_student(self, student: _Embeddings, target: Tensor) -> Tensor:
        """The intra loss with the student's embeddings on both sides.

        It falls only if the student distinguishes crops. `intra` can also fall because the
        student's embeddings move away from those of the teacher, which changes more slowly.
        """
        return agreement_loss(cosines(student.random, student.base), target, self.config.loss)

    def after_step(self, progress: float) -> None:
        """Update the teacher by one step of the EMA."""
        self._guard.restore()
        config = self.config
        momentum = cosine_schedule(config.momentum, config.momentum_end, progress)
        self.teacher.update(self.student, momentum)

    def draw(self, batch: Batch) -> StepDraws:
        """All random choices for a batch, on the CPU; a function of its seed and items."""
        config = self.config
        choices = StepChoices(
            plan=self.plan,
            slice_stride=config.slice_stride,
            separate_slices=config.slices == "separate",
            intensity=config.augment,
            volumes=config.volume_augment,
        )
        return choices.draw(batch.volumes.shape[1], batch.seed, batch.draw_keys())

    @torch.no_grad()
    def crops_and_targets(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Normalised crops (B, n + m, Z', h, w), n random ones first, and targets (B, n, m)."""
        draws = self.draw(batch)
        random = draws.random.to(batch.volumes.device)
        base = Boxes(self.base_corners, self.plan.size)
        of_random, of_base = self._choose_slices(batch.volumes, draws)
        stored = torch.cat([extract_crops(of_random, random), extract_crops(of_base, base)], dim=1)
        crops = normalise(stored, self.window)
        if draws.intensity is not None:
            crops = draws.intensity.apply(crops, draws.noise_seeds)
        return crops, overlap_targets(random, base, self.config.target)

    def _choose_slices(self, volumes: Tensor, draws: StepDraws) -> tuple[Tensor, Tensor]:
        """The slices that random and base crops show, equally many, flipped and turned."""
        stride = min(self.config.slice_stride, volumes.shape[1])
        first, other = (volumes[:, start::stride] for start in draws.first_slices)
        count = min(first.shape[1], other.shape[1])
        chosen = [first[:, :count]]
        if draws.first_slices[0] != draws.first_slices[1]:
            chosen.append(other[:, :count])
        if draws.volumes is not None:
            chosen = [draws.volumes.apply(part, outside=self.window.low) for part in chosen]
        return chosen[0], chosen[-1]
