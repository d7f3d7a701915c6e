from . import hu_histogram as hu_histogram
from .geometry import (
    CANONICAL_AXES as CANONICAL_AXES,
    ORTHOGONAL_TOLERANCE as ORTHOGONAL_TOLERANCE,
    Box as Box,
    Canonical as Canonical,
    Geometry as Geometry,
    Index as Index,
    Triple as Triple,
    is_given_box as is_given_box,
    nearest_axes as nearest_axes,
    unit_vector as unit_vector,
)
from .hu_evidence import check_hu as check_hu
from .hu_histogram import HuHistogram as HuHistogram
from .planar_geometry import AxisExtent as AxisExtent, PlanarGeometry as PlanarGeometry
from .saturation import ClippedVoxels as ClippedVoxels
from .slice_spacing import (
    ROUNDING_MM as ROUNDING_MM,
    EvenPositions as EvenPositions,
    GapPolicy as GapPolicy,
    even_positions as even_positions,
)
from .volume import (
    AIR_HU as AIR_HU,
    Volume as Volume,
    content_hasher as content_hasher,
)
from .voxels import (
    VOXEL_TYPE as VOXEL_TYPE,
    Quantisation as Quantisation,
    Voxel as Voxel,
    Voxels as Voxels,
    VoxelType as VoxelType,
    aligned_bytes as aligned_bytes,
    aligned_empty as aligned_empty,
)
