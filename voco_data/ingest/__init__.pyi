from .archive_masks import ArchiveMasks as ArchiveMasks
from .archives import Archives as Archives
from .estimation import Estimate as Estimate, estimate as estimate
from .options import (
    IngestOptions as IngestOptions,
    LayoutName as LayoutName,
    Option as Option,
    UnevenPolicy as UnevenPolicy,
    choose_specs as choose_specs,
    list_options as list_options,
)
from .run import PreprocessSummary as PreprocessSummary, preprocess as preprocess
from .seen_files import SeenFiles as SeenFiles
from .source_files import (
    SourceArchive as SourceArchive,
    SourceSeries as SourceSeries,
    find_source_files as find_source_files,
    open_source as open_source,
)
