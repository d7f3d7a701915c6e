from .array_volumes import ArrayVolumes as ArrayVolumes
from .augment_crops import (
    IntensityAugment as IntensityAugment,
    IntensityParameters as IntensityParameters,
)
from .augment_planes import VolumeAugment as VolumeAugment, VolumeDraws as VolumeDraws
from .augment_projections import (
    ProjectionAugmentation as ProjectionAugmentation,
    ProjectionDraws as ProjectionDraws,
)
from .augment_volumes import (
    Augmentation as Augmentation,
    AugmentationDraws as AugmentationDraws,
    X as X,
    Y as Y,
    Z as Z,
    apply_draws as apply_draws,
    move_slices as move_slices,
    move_voxels as move_voxels,
)
from .items import (
    Item as Item,
    ReducedVolumes as ReducedVolumes,
    VolumeSource as VolumeSource,
    items_of as items_of,
    torch_dtype as torch_dtype,
)
from .loader import Batch as Batch, Loader as Loader
from .prefetch import READER_THREADS as READER_THREADS
from .resident import (
    Residence as Residence,
    ResidentVolumes as ResidentVolumes,
    free_bytes as free_bytes,
    make_resident as make_resident,
)
from .sampling import (
    BatchOrder as BatchOrder,
    raise_share as raise_share,
    step_seed as step_seed,
)
from .slice_loader import SliceLoader as SliceLoader
from .transfer import copy_to_device as copy_to_device
from .volume_view import VolumeView as VolumeView
from .window import (
    InputWindow as InputWindow,
    centre as centre,
    input_window as input_window,
    normalise as normalise,
)
