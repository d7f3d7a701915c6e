"""Read DICOM: headers, the values that group slices, frames, and series as volumes of HU.

Key types
---------
Header : the allow-listed values of one object.
StackKey : the values in which stacks of one series differ.
DatasetValues : typed, checked access to the values of a data set.
read_series : reads the files of one series into a volume.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
