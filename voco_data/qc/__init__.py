"""Quality control of a run: its ledger, previews of its series, outliers, and the report."""
