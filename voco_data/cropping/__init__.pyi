from .abdomen import find_box as find_box
from .external_boxes import GivenBox as GivenBox
from .external_boxes import include_organs as include_organs
from .external_boxes import read_boxes as read_boxes
