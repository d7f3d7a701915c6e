from .declaration import Arm as Arm, Experiment as Experiment, read_experiment as read_experiment
from .experiment import (
    ExperimentSummary as ExperimentSummary,
    run_experiment as run_experiment,
)
from .jobs import FinetuneJob as FinetuneJob, list_jobs as list_jobs
from .running import run_job as run_job
