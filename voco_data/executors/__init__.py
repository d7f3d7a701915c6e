"""Spread series over processes of this machine, or over a Dask cluster."""
