"""The `voco` command, the Prefect flows of every stage, and the demo.

A flow is a table of contents: it calls stages of `voco_data` and `voco_models` with ids and paths.
"""
