"""Fill stores over processes of this machine, or over a Dask cluster.

Key types
---------
SeriesTask : one series to read, and the stores that lack it.
SeriesOutcome : what became of it.
RetryPolicy : how often a batch whose worker died is tried, and in which sizes.
run_processes, run_dask : run tasks, and retry those whose worker died.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
