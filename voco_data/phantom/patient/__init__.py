"""The anatomy of a made-up patient."""
