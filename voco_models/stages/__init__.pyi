from .array_projection import predict_arrays as predict_arrays, project_arrays as project_arrays
from .classifiers import build_classifier as build_classifier
from .comparison import compare_runs as compare_runs
from .compiler import has_cpu_compiler as has_cpu_compiler
from .evaluation import evaluate as evaluate
from .explanation import explain as explain
from .explanation_tables import make_explanation_tables as make_explanation_tables
from .finetune_plan import (
    FinetunePlan as FinetunePlan,
    Series as Series,
    count_finetune_steps as count_finetune_steps,
    make_plan as make_plan,
)
from .finetune_recipes import (
    FinetuneRecipe as FinetuneRecipe,
    finetune_recipe as finetune_recipe,
)
from .finetuning import finetune as finetune
from .initial_weights import (
    hash_weights as hash_weights,
    load_initial_weights as load_initial_weights,
)
from .localisation import (
    find_organ_boxes as find_organ_boxes,
    load_networks as load_networks,
    localise as localise,
)
from .model_card import (
    load_card_classifier as load_card_classifier,
    make_model_card as make_model_card,
)
from .onnx_export import export_onnx as export_onnx
from .organ_map_prediction import predict_maps as predict_maps
from .organ_pictures import OrganColumn as OrganColumn, draw_organs as draw_organs
from .prediction import (
    PredictSummary as PredictSummary,
    PreparedPrediction as PreparedPrediction,
    discard_preparation as discard_preparation,
    predict as predict,
    prepare_prediction as prepare_prediction,
)
from .pretrain_monitors import count_crops as count_crops
from .pretrain_plan import (
    build_objective as build_objective,
    check_pretraining as check_pretraining,
)
from .pretrain_recipes import (
    PretrainRecipe as PretrainRecipe,
    pretrain_recipe as pretrain_recipe,
)
from .pretrain_series import (
    measure_seen as measure_seen,
    select_pretraining_series as select_pretraining_series,
)
from .pretraining import pretrain as pretrain
from .probing import probe_backbones as probe_backbones
from .projection import project as project
from .projection_plan import check_projection as check_projection
from .projection_recipes import (
    ProjectionRecipe as ProjectionRecipe,
    projection_recipe as projection_recipe,
)
from .projection_scores import (
    MaskedSeries as MaskedSeries,
    find_masked_series as find_masked_series,
    read_projection_scores as read_projection_scores,
    score_projection as score_projection,
)
from .projection_weights import NETWORKS as NETWORKS
from .recipe_options import build_recipe as build_recipe
from .replay import replay as replay
from .series_geometry import read_records as read_records
