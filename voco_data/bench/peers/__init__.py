"""Other ways to bring one series to both grids, each as its own documentation advises.

A module has `prepare(folder, out)`: it imports its library, and gives what is to be timed, which
reads the DICOM files in `folder` and leaves one uint8 array a grid in `out`. They have no box, no
checksum, no record and no preview; they resample the whole volume.
"""
