"""Volumes of HU, their geometry in the patient, and the voxels that stores keep.

Key types
---------
Volume : one decoded series: HU (slice, row, column) and its geometry.
Geometry : shape, spacing and axes of a volume, in LPS mm.
Canonical : the permutation and flips to the patient's axes, and the way back.
Box : voxel bounds in a canonical volume, who made them, and how certain they are.
Quantisation : the map from HU to stored voxels, their type and their range.
HuHistogram : counts of HU in fixed bins.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
