"""Pretraining, fine-tuning and evaluation as stages, with their recipes."""
