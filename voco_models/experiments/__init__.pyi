from .declaration import Arm as Arm, Experiment as Experiment, read_experiment as read_experiment
from .experiment import (
    ExperimentSummary as ExperimentSummary,
    run_experiment as run_experiment,
    run_trial as run_trial,
)
from .jobs import Trial as Trial, list_trials as list_trials
from .projections.declaration import (
    ProjectionArm as ProjectionArm,
    ProjectionExperiment as ProjectionExperiment,
)
from .projections.jobs import ProjectionTrial as ProjectionTrial
from .tables import table_1_of_run as table_1_of_run
