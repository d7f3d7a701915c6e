from .backbones import (
    DEFAULT_BACKBONE as DEFAULT_BACKBONE,
    LARGER_BACKBONE as LARGER_BACKBONE,
    TINY_BACKBONE as TINY_BACKBONE,
)
from .batch_norm import synchronise_batch_norms as synchronise_batch_norms
from .classifier import (
    BILSTM as BILSTM,
    HEADS as HEADS,
    ORGAN_QUERIES as ORGAN_QUERIES,
    TRANSFORMER as TRANSFORMER,
    SliceSequenceClassifier as SliceSequenceClassifier,
    check_pooling as check_pooling,
    find_head as find_head,
)
from .encoder import (
    Backbone as Backbone,
    EmbeddingLevel as EmbeddingLevel,
    Encoder as Encoder,
    EncoderOptions as EncoderOptions,
    FeatureKind as FeatureKind,
)
from .findings import FINDINGS as FINDINGS, slice_loss as slice_loss
from .heads import (
    FeatureLayout as FeatureLayout,
    FeatureNorm as FeatureNorm,
    Head as Head,
    HeadOptions as HeadOptions,
    HeadOutput as HeadOutput,
    SliceReduction as SliceReduction,
)
from .imagenet_lite0 import (
    LITE0 as LITE0,
    create_imagenet_lite0 as create_imagenet_lite0,
    imagenet_lite0_installed as imagenet_lite0_installed,
    imagenet_lite0_weights as imagenet_lite0_weights,
)
from .organ_queries import (
    OrganQueryHead as OrganQueryHead,
    attention_loss as attention_loss,
    regions_of as regions_of,
)
from .places import box_masks as box_masks
from .projection.axes import (
    Plane as Plane,
    check_projection_grid as check_projection_grid,
    to_projection_axes as to_projection_axes,
)
from .projection.encoder_decoder import ProjectionNetwork as ProjectionNetwork
from .projection.registry import (
    PROJECTION_NETWORKS as PROJECTION_NETWORKS,
    PROJECTION_WIDTHS as PROJECTION_WIDTHS,
    TINY_PROJECTION_WIDTHS as TINY_PROJECTION_WIDTHS,
    create_projection_network as create_projection_network,
)
from .recompute import Recompute as Recompute, StatisticsGuard as StatisticsGuard
from .registry import (
    create_backbone as create_backbone,
    create_encoder as create_encoder,
    takes_volumes as takes_volumes,
)
from .sequence_heads import TRANSFORMER_HEADS as TRANSFORMER_HEADS
from .slice_features import (
    JoinedStages as JoinedStages,
    SliceFeatures as SliceFeatures,
    SlicePooling as SlicePooling,
    pool_map as pool_map,
)
from .teacher import (
    Teacher as Teacher,
    cosine_schedule as cosine_schedule,
    update_average as update_average,
)
from .weight_checks import find_bad_value as find_bad_value, find_misfit as find_misfit
from .weight_files import (
    SAFETENSORS as SAFETENSORS,
    read_header as read_header,
    read_weights as read_weights,
    write_safetensors as write_safetensors,
)
