"""The ledger of a run, previews of its series, and the quality-control report.

Key types
---------
LedgerRow : what became of one series, or of one file that belongs to none.
report : the page of a run, from `templates/qc/`; its plots are in `templates/qc/plots.js`.
Section : a part of another page; `render_page` makes the page.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
