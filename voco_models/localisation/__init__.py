"""Localisation: boxes of organs in 3D from their predicted maps, and how far off they are.

Key types
---------
OrganBox : the box of an organ in LPS mm, with a confidence.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
