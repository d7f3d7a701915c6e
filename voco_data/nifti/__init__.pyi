from .reader import GZIP_RATIO as GZIP_RATIO
from .reader import is_nifti as is_nifti
from .reader import read_grid as read_grid
from .reader import read_nifti as read_nifti
from .writer import write_nifti as write_nifti
