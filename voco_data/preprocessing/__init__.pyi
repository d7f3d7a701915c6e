from .resampling import resample as resample
from .silhouettes import draw_volumes as draw_volumes
from .steps import (
    PreparedSeries as PreparedSeries,
    draw_organ_maps as draw_organ_maps,
    find_boxes as find_boxes,
    prepare_series as prepare_series,
    resample_to_grid as resample_to_grid,
)
