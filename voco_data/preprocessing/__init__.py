"""One series to one grid: orientation, box, resampling."""
