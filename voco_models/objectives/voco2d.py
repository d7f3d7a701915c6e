"""The 2D-VoCo objective (arXiv 2601.14593): a student, an EMA teacher, and three losses."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from voco_data.errors import InputError
from voco_models.data import Batch, InputWindow, IntensityAugment, VolumeAugment, normalise
from voco_models.networks import (
    EmbeddingLevel,
    Encoder,
    EncoderOptions,
    FeatureKind,
    Teacher,
    cosine_schedule,
)
from voco_models.objectives.collapse import effective_rank
from voco_models.objectives.crops import Boxes, CropPlan, TargetMode, extract_crops, overlap_targets
from voco_models.objectives.losses import (
    LossOptions,
    agreement_loss,
    cosines,
    inter_cosines,
    inter_loss,
    reg_loss,
)
from voco_models.objectives.signals import AgreementSignals
from voco_models.training import WHEN_CHANGED, Objective


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
    loss: LossOptions = field(default_factory=LossOptions)
    augment: IntensityAugment = field(default_factory=IntensityAugment)
    volume_augment: VolumeAugment = field(default_factory=VolumeAugment, metadata=WHEN_CHANGED)

    def __post_init__(self) -> None:
        if not (0 <= self.momentum <= 1 and 0 <= self.momentum_end <= 1):
            raise InputError("recipe: momentum and momentum_end must be from 0 to 1")
        if self.slice_stride < 1 or (self.encode_px is not None and self.encode_px < 1):
            raise InputError("recipe: slice_stride and encode_px must be at least 1")
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

    def crop_plan(self, plane: tuple[int, int]) -> CropPlan:
        """Crops of volumes of (Y, X) pixels. InputError if the grid does not divide them."""
        return CropPlan(plane, self.grid, self.n_random)


class Voco2d(Objective):
    """Trains an encoder so that the cosine between the embeddings of two crops is their overlap.

    All random draws are seeded with `batch.seed`, so the losses are a function of the weights and
    the batch.
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
        self._statistics: list[tuple[Tensor, Tensor]] = []
        """Buffers of the student's backbone, and their values after the forward pass."""
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

        These are `intra_student` (see `_intra_student`), the number of `nonfinite` cosines, and
        the effective `rank` of the embeddings of base crops.
        """
        self._restore_statistics()
        # A monitor, which has no gradients, must not add to the signals of training.
        return self.measure(batch, self.signals if torch.is_grad_enabled() else None)

    def measure(self, batch: Batch, signals: AgreementSignals | None) -> dict[str, Tensor]:
        """The scalars of `forward`; the step is added to `signals`."""
        options = self.config.loss
        crops, target = self.crops_and_targets(batch)
        sizes = [self.config.n_random, self.config.grid**2]
        student_random, student_base = self.student(crops).split(sizes, dim=-2)
        if self._recompute and torch.is_grad_enabled():
            self._statistics = [(b, b.clone()) for b in self.student.backbone.buffers()]
        teacher_random, teacher_base = self.teacher(crops).split(sizes, dim=-2)

        cosine = cosines(student_random, teacher_base)
        if options.direction == "symmetric":
            cosine = (cosine + cosines(teacher_random, student_base)) / 2
        if cosine.dim() > target.dim():  # an embedding per slice: (B, Z, n, m)
            target = target[:, None].expand_as(cosine)
        intra = agreement_loss(cosine, target, options)
        if signals is not None:
            signals.add(cosine, target, teacher_base)

        inter = reg = cosine.new_zeros(())
        if options.inter != "off":
            inter = inter_loss(
                inter_cosines(student_random, student_base, options.inter),
                inter_cosines(teacher_random, teacher_base, options.inter),
                options,
            )
        if options.reg != "off":
            reg = reg_loss(student_base, options.reg)
        return {
            "loss": intra + inter + reg,
            "intra": intra,
            "inter": inter,
            "reg": reg,
            "intra_student": self._intra_student(student_random, student_base, target),
            "nonfinite": (~cosine.isfinite()).sum(),
            "rank": effective_rank(student_base),
        }

    @torch.no_grad()
    def _intra_student(self, random: Tensor, base: Tensor, target: Tensor) -> Tensor:
        """The intra loss with the student's embeddings on both sides.

        It falls only if the student distinguishes crops. `intra` can also fall because the
        student's embeddings move away from those of the teacher, which changes more slowly.
        """
        return agreement_loss(cosines(random, base), target, self.config.loss)

    def after_step(self, progress: float) -> None:
        """Update the teacher by one step of the EMA."""
        self._restore_statistics()
        config = self.config
        momentum = cosine_schedule(config.momentum, config.momentum_end, progress)
        self.teacher.update(self.student, momentum)

    @torch.no_grad()
    def _restore_statistics(self) -> None:
        """Undo what a backward pass that recomputed activations did to batch norm statistics."""
        for buffer, value in self._statistics:
            buffer.copy_(value)
        self._statistics = []

    @torch.no_grad()
    def crops_and_targets(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Normalised crops (B, n + m, Z', h, w), n random ones first, and targets (B, n, m)."""
        device = batch.volumes.device
        cpu_generator = torch.Generator().manual_seed(batch.seed)
        random = self.plan.draw_boxes(len(batch.volumes), cpu_generator).to(device)
        base = Boxes(self.base_corners, self.plan.size)
        stride = min(self.config.slice_stride, batch.volumes.shape[1])
        first_slice = int(torch.randint(stride, (), generator=cpu_generator))
        volumes = batch.volumes[:, first_slice::stride]
        if not self.config.volume_augment.is_identity:
            draws = self.config.volume_augment.draw(len(volumes), batch.seed)
            volumes = draws.apply(volumes, outside=self.window.low)
        stored = torch.cat([extract_crops(volumes, random), extract_crops(volumes, base)], dim=1)
        crops = normalise(stored, self.window)
        if not self.config.augment.is_identity:
            parameters = self.config.augment.draw(tuple(crops.shape[:2]), cpu_generator)
            noise_generator = torch.Generator(device).manual_seed(batch.seed)
            crops = parameters.apply(crops, noise_generator)
        return crops, overlap_targets(random, base, self.config.target)
