from .abdomen import find_box as find_box
from .external_boxes import (
    GivenBox as GivenBox,
    include_organs as include_organs,
    read_boxes as read_boxes,
)
