"""The box of the abdomen: found in the HU, corrected by organ masks, or taken from a table."""
