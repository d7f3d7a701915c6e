"""How others read volumes for training: a module each, run in a process of its own.

The only modules that import the peers' libraries. Each is set up as its documentation advises.
"""
