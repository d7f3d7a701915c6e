"""Arrays of HU with geometry, boxes in them, and stored voxels."""
