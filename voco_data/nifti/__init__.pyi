from .content import (
    count_slices as count_slices,
    holds_unscaled_bytes as holds_unscaled_bytes,
    is_label_map as is_label_map,
)
from .reader import (
    MAX_GZIP_RATIO as MAX_GZIP_RATIO,
    OpenNifti as OpenNifti,
    is_nifti as is_nifti,
    read_nifti as read_nifti,
)
from .writer import write_nifti as write_nifti
