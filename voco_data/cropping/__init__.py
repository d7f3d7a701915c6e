"""The box of the abdomen: found from HU, led by organ masks, or taken from a table.

Key types
---------
GivenBox : a box made by other software.
find_box : the box of the abdomen from HU alone.
include_organs : a box that holds the organs which masks show.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
