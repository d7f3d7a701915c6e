"""The store of volumes: spec, records, catalogue, reading and writing. See STORE.md.

Key types
---------
StoreSpec : what a store holds; its digest names the store.
Store : a store opened for reading.
StoreWriter : a store whose lock is held; `open_for_writing` opens one.
Record : provenance and geometry of one stored volume.
StoreIndex : the lines of a catalogue in a temporary database, for look-ups during a run.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
