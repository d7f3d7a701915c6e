from .recipe import Prepared as Prepared
from .recipe import find_boxes as find_boxes
from .recipe import prepare as prepare
from .recipe import to_grid as to_grid
from .resampling import resample as resample
