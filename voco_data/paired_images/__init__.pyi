from .listing import hash_images as hash_images
from .making import PairKind as PairKind, PairSummary as PairSummary, make_pairs as make_pairs
from .map_area import MapArea as MapArea
from .oct_scans import OctScan as OctScan, read_oct as read_oct
from .reading import PairedImages as PairedImages, read_paired_images as read_paired_images
