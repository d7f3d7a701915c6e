"""Retrainings over time: what each one was pinned to, and which run is the champion.

Key types
---------
Champions : the runs of a folder with their history, in RUNS/champion.json.
RetrainingRequest : labels and recipes that a retraining is asked for.
RetrainingPins : rows, split, labels and backbone that a retraining uses, also when it is retried.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
