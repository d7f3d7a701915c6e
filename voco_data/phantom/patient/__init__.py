"""The anatomy of a synthetic patient."""
