"""Volumes of HU, their geometry in the patient, and the voxels that stores keep.

Key types
---------
Volume : one decoded series: HU (slice, row, column) and its geometry.
Geometry : shape, spacing and axes of a volume, in LPS mm.
Canonical : the permutation and flips between the scanner's axes and the patient's.
Box : voxel bounds in a canonical volume, with their source and confidence.
Quantisation : the map from HU to stored voxels.
HuHistogram : counts of HU in fixed bins.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
