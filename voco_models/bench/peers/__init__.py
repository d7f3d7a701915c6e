"""Other libraries that read volumes for training: a module each, run in a process of its own.

No other module imports these libraries. Each is set up as its documentation advises.
"""
