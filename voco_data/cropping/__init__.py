"""The box of the abdomen: from HU, from HU and organ masks, or from a table.

Key types
---------
GivenBox : a box made by other software.
find_box : the box of the abdomen from HU alone.
include_organs : corrects that box by the organs of masks.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
