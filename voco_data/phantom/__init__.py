"""A made-up CT cohort in the real layouts: analytic anatomy, injuries, DICOM, NIfTI and tables."""
