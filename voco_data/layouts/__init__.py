"""How archives are laid out: each layout turns a folder into a cohort of series.

Key functions
-------------
index_archive : recognise the layout of an archive, and index it.
layout_choices : the names that `--layout` takes.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
