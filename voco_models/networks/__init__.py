"""Backbones, encoders, heads, the EMA teacher and the classifier.

Key types
---------
Backbone : images to feature maps; `create_backbone` makes one by name, for slices or volumes.
Encoder : crops to embeddings; `create_encoder` makes one by name.
Teacher : the moving average of an encoder.
Head : features of slices to logits, by a name in HEADS.
SliceSequenceClassifier : a CNN for each slice, and a head.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
