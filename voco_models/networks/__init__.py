"""Backbones, encoders, heads, the EMA teacher, the classifier and projection networks.

Key types
---------
Backbone : images to feature maps; `create_backbone` makes one by name, for slices or volumes.
Encoder : crops to embeddings; `create_encoder` makes one by name.
Teacher : the moving average of an encoder.
Head : features of slices to logits, by a name in HEADS.
SliceSequenceClassifier : a CNN for each slice, and a head.
ProjectionNetwork : volumes to 2D maps; `create_projection_network` makes one by name.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
