from .boxes import (
    OrganBox as OrganBox,
    find_box as find_box,
    join_boxes as join_boxes,
)
