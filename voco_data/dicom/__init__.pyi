from .binary_format import (
    UNCOMPRESSED as UNCOMPRESSED,
    has_prefix as has_prefix,
    may_be_dicom as may_be_dicom,
)
from .dicomdir import (
    ListedSlice as ListedSlice,
    is_dicomdir as is_dicomdir,
    listed_slices as listed_slices,
    referenced_files as referenced_files,
)
from .header import (
    MAX_FRAMES as MAX_FRAMES,
    Header as Header,
    SliceIds as SliceIds,
    describe_uid as describe_uid,
    end_frames as end_frames,
    find_slice_ids as find_slice_ids,
    parse_frames as parse_frames,
    parse_header as parse_header,
    read_dataset as read_dataset,
    transfer_syntax as transfer_syntax,
)
from .pixels.hu_kernels import (
    SLACK_BYTES as SLACK_BYTES,
    decode_rle_planes as decode_rle_planes,
    integer_rescale as integer_rescale,
    planes_to_hu as planes_to_hu,
)
from .planar_image import (
    FrameOfReference as FrameOfReference,
    PlanarImage as PlanarImage,
    read_frame_of_reference as read_frame_of_reference,
    read_planar_geometry as read_planar_geometry,
    read_planar_image as read_planar_image,
)
from .series.fast_reader import SliceDecoder as SliceDecoder
from .series.header_scan import ScannedHeader as ScannedHeader, header_scanner as header_scanner
from .series.pixel_digest import pixel_digest as pixel_digest
from .series.reader import read_series as read_series
from .stack_key import (
    SEGMENTATION_CLASS as SEGMENTATION_CLASS,
    TRAIT_NAMES as TRAIT_NAMES,
    SegmentationReference as SegmentationReference,
    SliceTimes as SliceTimes,
    StackKey as StackKey,
    make_slice_times as make_slice_times,
    make_stack_key as make_stack_key,
    segmentation_reference as segmentation_reference,
)
from .values import DatasetValues as DatasetValues
