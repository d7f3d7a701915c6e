"""Other libraries that are measured beside ours, one per module.

No other module imports these libraries. Each is set up as its documentation advises. Those that
read volumes for training run in a process of their own.
"""
