from .alarms import CollapseWatch as CollapseWatch
from .classification import (
    ClassificationObjective as ClassificationObjective,
    loss_weights as loss_weights,
    predict as predict,
)
from .collapse import constant_cosine_losses as constant_cosine_losses
from .losses import LossOptions as LossOptions
from .signals import (
    WeightMovement as WeightMovement,
    within_correlation as within_correlation,
)
from .voco2d import Voco2d as Voco2d, Voco2dConfig as Voco2dConfig
