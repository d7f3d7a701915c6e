"""Objects in a folder of this machine or below a prefix of a bucket, with locks.

Key types
---------
Storage : objects under keys; `open_storage` opens one from a path or a URL.
ReadableStorage, WritableStorage : the parts of it that readers and workers need.
LocalStorage, ObjectStorage : a folder, and a prefix of an object store.
Lease, CombinedLease : the right to write, while one lock or several are held.
LocalCache : copies of remote objects on this machine.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
