"""Experiments: arms, seeds and fractions of labels from one declaration.

`projections` has experiments of 3D-to-2D networks; the other modules are of classifiers, or of
both.

Key functions
-------------
run_experiment : trains what is missing, and compares all runs.
read_experiment : the declaration of a `.toml` file.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
