from .boundary_errors import Extent as Extent, boundary_errors as boundary_errors
from .boxes import (
    OrganBox as OrganBox,
    find_box as find_box,
    join_boxes as join_boxes,
)
