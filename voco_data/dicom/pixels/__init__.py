"""Encoded frames to stored values (`decode`), and stored values to HU (`modality`, `hu_kernels`).

`claimed_size` checks what a frame claims before a codec may allocate memory for it.
"""
