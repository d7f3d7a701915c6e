"""The box of the abdomen: found from HU, led by organ masks, or taken from a table."""
