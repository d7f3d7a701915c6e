"""Batches of volumes and slices from stores, and their augmentation on the device.

Key types
---------
Item, VolumeSource : one volume of a store, and the interface of stores that loaders use.
Loader, SliceLoader : batches of volumes, and of single slices.
Batch : stored volumes on the device, with their targets by name.
Augmentation, IntensityAugment : random changes of volumes (fine-tuning) and of crops (pretraining).
InputWindow : the range of stored values that the network sees.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
