"""NIfTI files to volumes, and volumes to NIfTI files. The only package that imports nibabel."""
