from .grad_cam import check_captum_installed as check_captum_installed
from .intervals import mean_intervals as mean_intervals
from .occlusion import (
    REPLACEMENTS as REPLACEMENTS,
    Replacement as Replacement,
    injury_probabilities as injury_probabilities,
    slice_effects as slice_effects,
)
from .pages import (
    PictureView as PictureView,
    SeriesPage as SeriesPage,
    Table as Table,
    write_page as write_page,
)
from .place_maps import (
    MapKind as MapKind,
    map_kind as map_kind,
    mean_of_models as mean_of_models,
    place_maps as place_maps,
    without_prior as without_prior,
)
from .pointing import (
    ALL as ALL,
    MIN_RATIO as MIN_RATIO,
    Pointing as Pointing,
    boxes_in_view as boxes_in_view,
    inside_boxes as inside_boxes,
    maximum_of as maximum_of,
    point as point,
    summarise_pointing as summarise_pointing,
)
from .slice_auc import (
    SliceCase as SliceCase,
    slice_auc as slice_auc,
    slices_with_images as slices_with_images,
    slices_with_organ as slices_with_organ,
    summarise_slices as summarise_slices,
    view_edges_mm as view_edges_mm,
)
