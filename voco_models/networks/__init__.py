"""Backbones, encoders, heads and the classifier, with registries of them by name."""
