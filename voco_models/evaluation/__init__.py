"""Metrics, calibration, thresholds and the report."""
