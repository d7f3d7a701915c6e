"""Encoded frames to stored values (`decode`), and stored values to HU (`modality`, `hu_kernels`).

`frame_headers` parses the header of an encoded frame before a codec allocates memory for it.
"""
