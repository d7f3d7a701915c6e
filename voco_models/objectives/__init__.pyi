from .classification import ClassificationObjective as ClassificationObjective
from .classification import loss_weights as loss_weights
from .classification import predict as predict
from .collapse import CollapseWatch as CollapseWatch
from .collapse import constant_levels as constant_levels
from .voco2d import Voco2d as Voco2d
from .voco2d import Voco2dConfig as Voco2dConfig
