"""Where bytes lie: folders of this machine and prefixes of buckets, with locks.

Key types
---------
Storage : objects under keys; `open_storage` opens one from a path or a URL.
ReadableStorage, WritableStorage : the parts of it that readers and workers need.
LocalStorage, ObjectStorage : a folder, and a prefix of an object store.
Lease, Leases : the right to write, while a lock is held.
LocalCache : copies of remote objects on this machine.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
