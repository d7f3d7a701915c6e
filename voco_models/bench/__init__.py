"""Measurements of this machine, with peers measured beside us. `voco bench`."""
