"""Batches of volumes and slices from stores, and what changes them on the device.

Key types
---------
Item, VolumeSource : what is trained on, and where volumes come from.
Loader, SliceLoader : batches of volumes, and of single slices.
Batch : stored volumes on the device, with their targets by name.
Augmentation, IntensityAugment : random changes of volumes (fine-tuning) and of crops (pretraining).
InputWindow : which stored values the network sees, and how they become its input.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
