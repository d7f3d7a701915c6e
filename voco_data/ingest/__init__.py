"""The preprocess stage: an archive into stores that are up to date with it.

Key types
---------
IngestOptions : every option of a run, with its default.
preprocess : fill the stores of an archive; returns a PreprocessSummary.
estimate : what a run would take; returns an Estimate.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
