"""Other libraries that read volumes for training, one per module, each in its own process.

No other module imports these libraries. Each is set up as its documentation advises.
"""
