from .classification import (
    ClassificationObjective as ClassificationObjective,
    loss_weights as loss_weights,
    predict as predict,
)
from .collapse import (
    CollapseWatch as CollapseWatch,
    constant_cosine_losses as constant_cosine_losses,
)
from .voco2d import Voco2d as Voco2d, Voco2dConfig as Voco2dConfig
