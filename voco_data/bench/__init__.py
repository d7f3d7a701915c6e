"""Benchmarks of filling stores: voco, the floor, and peers, measured in one run."""
