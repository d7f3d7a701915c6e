"""DICOM files to volumes of HU: headers, pixels, and the order of the slices of a series."""
