"""Batches of volumes and slices from stores, and what changes them on the device."""
