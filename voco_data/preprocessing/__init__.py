"""Bring one series to its grids: read, orient, find the box, resample.

Key types
---------
PreparedSeries : one series, decoded, along the canonical axes.
prepare_series, find_boxes, resample_to_grid : the steps from files to the voxels of a grid.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
