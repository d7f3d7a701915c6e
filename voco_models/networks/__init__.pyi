from .backbones import DEFAULT_BACKBONE as DEFAULT_BACKBONE, TINY_BACKBONE as TINY_BACKBONE
from .classifier import (
    FeatureNorm as FeatureNorm,
    OverSlices as OverSlices,
    SlicePooling as SlicePooling,
    SliceSequenceClassifier as SliceSequenceClassifier,
)
from .encoder import (
    Backbone as Backbone,
    Encoder as Encoder,
    EncoderOptions as EncoderOptions,
    Feature as Feature,
    Level as Level,
)
from .registry import create_backbone as create_backbone, create_encoder as create_encoder
from .sequence_models import (
    BILSTM as BILSTM,
    SEQUENCE_MODELS as SEQUENCE_MODELS,
    SequenceModel as SequenceModel,
)
from .teacher import Teacher as Teacher, cosine_schedule as cosine_schedule
