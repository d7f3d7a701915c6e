"""List, verify, clean, export and describe stores; pin them for training runs.

Key functions
-------------
list_stores, describe_store : the stores of a root, and one of them.
verify_store : re-hash everything that a store holds.
collect_garbage : remove what nothing needs.
export_volume : one volume as NIfTI in the scanner's frame.
write_store_card : what a store holds, as Croissant JSON-LD, without ids.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
