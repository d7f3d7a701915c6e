from .backbone_choice import BackboneChoice as BackboneChoice
from .champion_changes import (
    promote_by_hand as promote_by_hand,
    record_run as record_run,
    require_champions as require_champions,
    roll_back as roll_back,
)
from .champions import (
    CHAMPION_FILE as CHAMPION_FILE,
    FINETUNE_FOLDER as FINETUNE_FOLDER,
    PRETRAIN_FOLDER as PRETRAIN_FOLDER,
    Champions as Champions,
    RetrainedRun as RetrainedRun,
    find_champions as find_champions,
    read_champions as read_champions,
)
from .conclusion import conclude_retraining as conclude_retraining
from .promotion import MARGIN as MARGIN, Verdict as Verdict, judge as judge
from .retraining import (
    RetrainingPins as RetrainingPins,
    check_request as check_request,
    pin_retraining as pin_retraining,
    read_pins as read_pins,
)
from .retraining_request import (
    NEW_DATA_SHARE as NEW_DATA_SHARE,
    RetrainingRequest as RetrainingRequest,
)
from .timeline_page import write_timeline_page as write_timeline_page
