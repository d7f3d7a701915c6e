"""Experiments: arms, backbones, seeds and fractions of labels from one declaration.

Key functions
-------------
run_experiment : trains what is missing, and compares all runs.
read_experiment : the declaration of a `.toml` file.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
