from .binary_format import UNCOMPRESSED as UNCOMPRESSED
from .dicomdir import is_dicomdir as is_dicomdir, referenced_files as referenced_files
from .header import (
    MAX_FRAMES as MAX_FRAMES,
    MAX_PIXELS as MAX_PIXELS,
    Header as Header,
    known_uid as known_uid,
    parse_header as parse_header,
    read_dataset as read_dataset,
    transfer_syntax as transfer_syntax,
)
from .pixels.hu_kernels import (
    SLACK_BYTES as SLACK_BYTES,
    integer_rescale as integer_rescale,
    planes_to_hu as planes_to_hu,
    rle_planes as rle_planes,
)
from .series.fast_reader import SliceDecoder as SliceDecoder
from .series.header_scan import ScannedHeader as ScannedHeader, header_scanner as header_scanner
from .series.reader import read_series as read_series
from .stack_key import (
    SEGMENTATION_CLASS as SEGMENTATION_CLASS,
    Segmented as Segmented,
    StackKey as StackKey,
    make_stack_key as make_stack_key,
    segmented_series as segmented_series,
)
from .values import DatasetValues as DatasetValues
