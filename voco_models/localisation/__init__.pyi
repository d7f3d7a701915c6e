from .boundary_errors import (
    Extent as Extent,
    boundary_errors as boundary_errors,
    mean_boxes as mean_boxes,
    place_in as place_in,
)
from .boxes import (
    OrganBox as OrganBox,
    find_box as find_box,
    join_boxes as join_boxes,
)
from .intervals import THRESHOLD as THRESHOLD
from .regions import (
    ABDOMEN as ABDOMEN,
    OPEN_REGIONS as OPEN_REGIONS,
    REGIONS as REGIONS,
    choose_box as choose_box,
)
from .scores import (
    ALL as ALL,
    NOTHING_KEPT as NOTHING_KEPT,
    Boxes as Boxes,
    ScoredSeries as ScoredSeries,
    count_false_boxes as count_false_boxes,
    measure_errors as measure_errors,
    measure_kept as measure_kept,
    summarise_faces as summarise_faces,
    summarise_kept as summarise_kept,
    summarise_organs as summarise_organs,
    with_regions as with_regions,
)
from .truths import Truth as Truth, read_truth as read_truth
