"""Pseudonyms for ids, and detection of text burned into pixels.

Key types
---------
Pseudonymiser : keyed pseudonyms of patient, study and series ids.
looks_like_text : whether slices show burned-in text.
TextSearch : how it is searched.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
