from .making import PairKind as PairKind, PairSummary as PairSummary, make_pairs as make_pairs
from .map_area import MapArea as MapArea
from .reading import PairedImages as PairedImages, read_paired_images as read_paired_images
