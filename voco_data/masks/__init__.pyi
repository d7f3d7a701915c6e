from .files import read_masks as read_masks
from .organs import (
    ABDOMINAL as ABDOMINAL,
    UNDER_THE_DOME as UNDER_THE_DOME,
    OrganBounds as OrganBounds,
    find_organs as find_organs,
)
from .placement import PlacedMask as PlacedMask
