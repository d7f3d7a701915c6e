"""Encoded frames to stored values, and stored values to HU."""
