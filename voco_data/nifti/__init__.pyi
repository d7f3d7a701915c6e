from .reader import (
    GZIP_RATIO as GZIP_RATIO,
    is_nifti as is_nifti,
    read_grid as read_grid,
    read_nifti as read_nifti,
)
from .writer import write_nifti as write_nifti
