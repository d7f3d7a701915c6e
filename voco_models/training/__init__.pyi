from . import checkpoint as checkpoint
from .capture import CAPTURE as CAPTURE, Capture as Capture, load_capture as load_capture
from .engine import (
    FitSummary as FitSummary,
    check_run_folder as check_run_folder,
    choose_device as choose_device,
    fit as fit,
)
from .export import WEIGHTS as WEIGHTS, export_backbone as export_backbone
from .fit_config import FitConfig as FitConfig
from .folders import check_writable as check_writable
from .health import (
    HEALTH as HEALTH,
    PROBES as PROBES,
    Probe as Probe,
    ProbeMonitor as ProbeMonitor,
    SpeedMonitor as SpeedMonitor,
    write_tensorboard as write_tensorboard,
)
from .history import HISTORY as HISTORY, HistoryRow as HistoryRow, read_history as read_history
from .hooks import Interruption as Interruption, Monitor as Monitor
from .host_memory import keep_freed_memory as keep_freed_memory
from .objective import BatchSource as BatchSource, Objective as Objective
from .optimizers import AdamW as AdamW, Optimizer as Optimizer, Sgd as Sgd
from .provenance import (
    current_commit as current_commit,
    describe_store as describe_store,
    hash_file as hash_file,
    list_differences as list_differences,
    make_provenance as make_provenance,
    read_specs as read_specs,
    to_plain as to_plain,
)
from .run_files import (
    Fault as Fault,
    check_before_resume as check_before_resume,
    complete_run as complete_run,
    find_faults as find_faults,
    list_artifacts as list_artifacts,
    mark_incomplete as mark_incomplete,
)
from .saved_state import SavedState as SavedState, read_state as read_state
from .step import (
    prepare as prepare,
    take_step as take_step,
    warmup_cosine as warmup_cosine,
)
from .train_state import TrainState as TrainState
