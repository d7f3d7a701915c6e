"""Objectives, networks and the training engine that read stores. Imports nothing heavy."""

import os

# OpenMP reads this when torch is loaded, so it is set before any module of this package imports
# torch. Threads that spin while they wait make training many times slower as soon as another
# thread, such as a reader of the loader, needs a core.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
