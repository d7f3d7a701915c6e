"""Read and write NIfTI files, through nibabel.

Key functions
-------------
read_nifti : a volume of HU with its geometry.
OpenNifti : a file whose header is checked, and its planes as they are.
write_nifti : one volume and its affine.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
