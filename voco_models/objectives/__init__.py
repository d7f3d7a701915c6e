"""Training objectives: 2D-VoCo with its crops and losses, and classification.

Key types
---------
Voco2d, Voco2dConfig : slice-level self-supervision (2D-VoCo).
ClassificationObjective : the classifier under weighted cross-entropy.
CollapseWatch : warns when a network learns nothing, or has collapsed.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
