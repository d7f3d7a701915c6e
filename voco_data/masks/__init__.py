"""Label maps: read from NIfTI, NRRD and DICOM SEG, and placed on their series by geometry."""
