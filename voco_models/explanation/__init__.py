"""Which slices and places a classifier uses, and whether they are where the organs are.

Key functions
-------------
slice_effects : how much an injury's probability changes without each slice.
place_maps : attention to places, or Grad-CAM, for each slice.
point, summarise_pointing : the pointing game.
slice_auc, summarise_slices : how well a curve over slices finds the slices that matter.
write_page : the page of an explanation.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
