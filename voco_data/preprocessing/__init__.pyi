from .resampling import resample as resample
from .steps import (
    PreparedSeries as PreparedSeries,
    find_boxes as find_boxes,
    prepare_series as prepare_series,
    resample_to_grid as resample_to_grid,
)
