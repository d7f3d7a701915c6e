from . import arrays as arrays, catalogue as catalogue, integrity as integrity
from .archive_mask import (
    ArchiveMask as ArchiveMask,
    MaskReader as MaskReader,
    ProfileBox as ProfileBox,
)
from .catalogue import Line as Line
from .choice import choose_store as choose_store, choose_stores as choose_stores
from .chunks.codec import Compression as Compression
from .index import (
    InputDigests as InputDigests,
    StoreIndex as StoreIndex,
)
from .keys import (
    ARRAYS as ARRAYS,
    CATALOGUE as CATALOGUE,
    CHUNKS as CHUNKS,
    GROUP_METADATA as GROUP_METADATA,
    METADATA as METADATA,
    RECORDS as RECORDS,
    ROW_IDS as ROW_IDS,
    WRITE_ONCE as WRITE_ONCE,
    array_metadata as array_metadata,
    chunk_key as chunk_key,
    lock_key as lock_key,
    row_of_chunk as row_of_chunk,
    row_of_record as row_of_record,
)
from .organ_maps import (
    OrganMaps as OrganMaps,
    Silhouette as Silhouette,
    encode_silhouette as encode_silhouette,
)
from .reader import Store as Store
from .record import (
    Record as Record,
    SeriesIdentity as SeriesIdentity,
    read_record as read_record,
    series_key as series_key,
)
from .row_ids import RowIds as RowIds
from .spec import (
    ALGORITHM_VERSION as ALGORITHM_VERSION,
    FINETUNE as FINETUNE,
    FORMAT as FORMAT,
    LOCALISE as LOCALISE,
    PRETRAIN as PRETRAIN,
    PROFILES as PROFILES,
    StoreSpec as StoreSpec,
    distinct_specs as distinct_specs,
    read_spec as read_spec,
    read_spec_file as read_spec_file,
)
from .writer import (
    StoreWriter as StoreWriter,
    commit_volume as commit_volume,
    open_for_writing as open_for_writing,
    volume_checksum as volume_checksum,
)
