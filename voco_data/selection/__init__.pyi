from .exposure import (
    Exposure as Exposure,
    SeenPatients as SeenPatients,
    StorePatients as StorePatients,
    contents_of_patients as contents_of_patients,
    find_seen as find_seen,
    measure_exposure as measure_exposure,
    root_digest as root_digest,
)
from .families import (
    find_families as find_families,
    patients_sharing_volumes as patients_sharing_volumes,
)
from .pinned_rows import PinnedRows as PinnedRows, open_pinned as open_pinned
from .series import (
    Selection as Selection,
    describe_series as describe_series,
    held_out_mask as held_out_mask,
    list_series as list_series,
)
from .split import Split as Split
from .split_file import (
    content_links as content_links,
    family_links as family_links,
    now as now,
    read_split as read_split,
    update_split as update_split,
    write_split as write_split,
)
