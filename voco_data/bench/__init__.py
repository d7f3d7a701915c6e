"""Benchmarks of filling stores: our path, its floor and its peers, measured in one run."""
