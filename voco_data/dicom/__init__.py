"""DICOM in: headers, grouping values, frames, and series to volumes of HU.

Key types
---------
Header : the allow-listed values of one object.
StackKey : the values that tell stacks of one series apart.
DatasetValues : typed, checked access to the values of a data set.
read_series : the files of one series to a volume.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
