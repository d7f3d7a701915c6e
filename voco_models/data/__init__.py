"""Batches of volumes and slices from stores, their normalisation and augmentation."""
