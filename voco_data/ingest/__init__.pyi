from .estimation import Estimate as Estimate, estimate as estimate
from .options import (
    IngestChanges as IngestChanges,
    IngestOptions as IngestOptions,
    LayoutName as LayoutName,
    UnevenPolicy as UnevenPolicy,
)
from .run import PreprocessSummary as PreprocessSummary, preprocess as preprocess
from .seen_files import SeenFiles as SeenFiles
