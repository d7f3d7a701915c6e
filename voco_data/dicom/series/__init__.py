"""The files of one DICOM series to a volume.

`fast_reader` reads plain files by a scan over their bytes (`element_scan`, `header_scan`); `reader`
reads all others through pydicom. `slice_order` sorts the slices.
"""
