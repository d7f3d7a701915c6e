from .evaluation import evaluate as evaluate
from .finetune_recipes import finetune_recipe as finetune_recipe
from .finetuning import finetune as finetune
from .pretraining import pretrain as pretrain
from .probing import probe_backbones as probe_backbones
from .replay import replay as replay
