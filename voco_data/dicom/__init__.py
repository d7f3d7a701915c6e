"""DICOM in: headers, frames, grouping and order, pixels, HU. The only reader that knows pydicom."""
