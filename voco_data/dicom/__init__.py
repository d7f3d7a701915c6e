"""DICOM in: headers, grouping and order, pixels. The only reader that knows pydicom."""
