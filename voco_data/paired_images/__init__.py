"""Second, 2D images of the bodies in a store: read, brought to its maps, and made from archives.

A map is an image of a volume along one axis: coronal (Z, X) or sagittal (Z, Y). An image has the
orientation of a viewer: the first row is superior, the first column right (coronal) or anterior
(sagittal).

Key types
---------
MapArea : what a map of one series covers, in LPS mm.
PairedImages : the images of series on the maps of their store, and where they are valid.
read_paired_images : from a folder or a table of image files.
make_pairs : write such a folder from the scouts or from other series of the same studies.
read_oct : a volume of optical coherence tomography (OCT) and its en-face image, as arrays.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
