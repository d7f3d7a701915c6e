from .classification import (
    ClassificationObjective as ClassificationObjective,
    loss_weights as loss_weights,
    predict as predict,
)
from .collapse import CollapseWatch as CollapseWatch, constant_levels as constant_levels
from .voco2d import Voco2d as Voco2d, Voco2dConfig as Voco2dConfig
