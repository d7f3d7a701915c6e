from .resampling import resample as resample
from .steps import (
    Prepared as Prepared,
    find_boxes as find_boxes,
    prepare as prepare,
    to_grid as to_grid,
)
