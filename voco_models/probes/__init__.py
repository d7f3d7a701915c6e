"""Probes: what frozen features of a backbone know about place, measured on patients left out.

Key types
---------
ProbedVolume : a volume with its patient and its domain.
ProbeOptions : which crops and slices are asked, and how.
ProbeTable : errors by patient, of one backbone; `difference` compares two.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
