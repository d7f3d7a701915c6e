"""One series to the grids of its stores: orientation, box, resampling."""
