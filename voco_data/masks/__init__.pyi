from .files import read_masks as read_masks
from .organs import ABDOMINAL as ABDOMINAL
from .organs import UNDER_THE_DOME as UNDER_THE_DOME
from .organs import OrganBounds as OrganBounds
from .organs import find_organs as find_organs
from .placement import PlacedMask as PlacedMask
