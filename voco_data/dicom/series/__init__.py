"""The files of one DICOM series to a volume."""
