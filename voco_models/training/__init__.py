"""The training loop and its interfaces, state, checkpoints and provenance."""
