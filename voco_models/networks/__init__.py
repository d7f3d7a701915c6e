"""Backbones, encoders, heads and the classifier."""
