"""The ledger of a run and its quality-control report."""
