"""Label maps: read from files, and placed on their series by geometry.

Key types
---------
PlacedMask : a label map on the grid of its series.
OrganBounds : the box of one organ.
read_masks : the masks of a series from NIfTI, NRRD and DICOM SEG files. `layouts` finds the files.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
