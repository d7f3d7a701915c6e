"""Training objectives: 2D-VoCo with its crops and losses, and classification."""
