"""Prefect flows and the `voco` command: tables of contents over voco_data and voco_models."""
