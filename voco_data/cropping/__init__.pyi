from .abdomen import find_box as find_box
from .given_boxes import GivenBox as GivenBox, read_boxes as read_boxes
from .organ_boxes import include_organs as include_organs
