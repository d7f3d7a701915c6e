from .champion_changes import (
    promote_by_hand as promote_by_hand,
    record_run as record_run,
    require_champions as require_champions,
    roll_back as roll_back,
)
from .champion_cohort import (
    ChampionCohort as ChampionCohort,
    find_champion_cohort as find_champion_cohort,
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
from .figures import write_figures as write_figures
from .mlflow_mirror import (
    check_address as check_address,
    mirror_champions as mirror_champions,
)
from .outcome import (
    describe_nothing_new as describe_nothing_new,
    describe_retraining as describe_retraining,
)
from .pins import (
    BackboneChoice as BackboneChoice,
    RetrainingPins as RetrainingPins,
    read_pins as read_pins,
)
from .promotion import MARGIN as MARGIN, Verdict as Verdict, judge as judge
from .retention import DAYS as DAYS, remove_old_runs as remove_old_runs
from .retraining import pin_retraining as pin_retraining
from .retraining_request import (
    NEW_DATA_SHARE as NEW_DATA_SHARE,
    RetrainingRequest as RetrainingRequest,
    check_recipes as check_recipes,
    check_request as check_request,
)
from .run_verification import VerifyRunsSummary as VerifyRunsSummary, verify_runs as verify_runs
from .timeline_page import write_timeline_page as write_timeline_page
