"""Benchmarks of reading for training, ours and other libraries', by `voco bench loader`."""
