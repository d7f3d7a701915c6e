from .alarms import CollapseWatch as CollapseWatch
from .classification import (
    ORGAN_BOXES as ORGAN_BOXES,
    SLICE_LABELS as SLICE_LABELS,
    Z_EXTENT as Z_EXTENT,
    ClassificationObjective as ClassificationObjective,
    depths_of as depths_of,
    explain as explain,
    loss_weights as loss_weights,
    predict as predict,
    weighted_cross_entropy as weighted_cross_entropy,
)
from .collapse import constant_cosine_losses as constant_cosine_losses
from .held_out import HeldOutProbe as HeldOutProbe
from .losses import LossOptions as LossOptions
from .mixup import check_pairs as check_pairs
from .projection import (
    LABELLED as LABELLED,
    PLANES as PLANES,
    ProjectionObjective as ProjectionObjective,
    ReconstructionObjective as ReconstructionObjective,
    SegmentationObjective as SegmentationObjective,
    map_name as map_name,
    valid_name as valid_name,
)
from .reconstruction import negative_ssim_loss as negative_ssim_loss, ssim as ssim
from .segmentation import dice_bce_loss as dice_bce_loss
from .signals import (
    AgreementSignals as AgreementSignals,
    WeightMovement as WeightMovement,
    within_correlation as within_correlation,
)
from .voco2d import Voco2d as Voco2d, Voco2dConfig as Voco2dConfig
