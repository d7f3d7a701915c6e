"""Arrays of HU with geometry, and boxes in them."""
