from .files import read_masks as read_masks
from .organ_files import organ_of_file as organ_of_file
from .organs import (
    ABDOMINAL_ORGANS as ABDOMINAL_ORGANS,
    NUMBER_PREFIX as NUMBER_PREFIX,
    SUBDIAPHRAGMATIC_ORGANS as SUBDIAPHRAGMATIC_ORGANS,
    OrganBounds as OrganBounds,
    find_organs as find_organs,
)
from .placement import PlacedMask as PlacedMask
