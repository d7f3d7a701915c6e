from .dask import run_dask as run_dask
from .process_pool import run_processes as run_processes
from .tasks import (
    KnownInputs as KnownInputs,
    RetryPolicy as RetryPolicy,
    SeriesOutcome as SeriesOutcome,
    SeriesTask as SeriesTask,
    Target as Target,
)
from .worker import fill_series as fill_series
