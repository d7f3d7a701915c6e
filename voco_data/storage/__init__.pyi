from . import atomic as atomic, locks as locks, parquet as parquet, scratch_db as scratch_db
from .atomic import replacing as replacing, sweep_store as sweep_store, write_text as write_text
from .base import (
    CombinedLease as CombinedLease,
    Lease as Lease,
    ObjectReader as ObjectReader,
    ReadableStorage as ReadableStorage,
    Storage as Storage,
    WritableStorage as WritableStorage,
)
from .disk_cache import (
    SIZE_VARIABLE as SIZE_VARIABLE,
    LocalCache as LocalCache,
    user_cache as user_cache,
)
from .input_files import (
    check_regular_file as check_regular_file,
    parse_toml as parse_toml,
    read_bytes as read_bytes,
    read_json as read_json,
    read_text as read_text,
    read_toml as read_toml,
)
from .input_tables import (
    MAX_TABLE_BYTES as MAX_TABLE_BYTES,
    iterate_rows as iterate_rows,
    parse_number as parse_number,
    parse_table as parse_table,
    read_table as read_table,
)
from .local import FencedLocalStorage as FencedLocalStorage, LocalStorage as LocalStorage
from .locks import Fence as Fence
from .object_store import ObjectStorage as ObjectStorage
from .root import (
    ARCHIVES as ARCHIVES,
    ARCHIVES_LOCK as ARCHIVES_LOCK,
    FINGERPRINT as FINGERPRINT,
    ID_MODE as ID_MODE,
    ID_MODE_LOCK as ID_MODE_LOCK,
    PINS_FOLDER as PINS_FOLDER,
    PREVIEWS_FOLDER as PREVIEWS_FOLDER,
    PRIVATE_FOLDER as PRIVATE_FOLDER,
    REPORT as REPORT,
    RUN_DESCRIPTION as RUN_DESCRIPTION,
    RUN_ID as RUN_ID,
    RUNS_FOLDER as RUNS_FOLDER,
    SEEN_FILES as SEEN_FILES,
    SEEN_FILES_LOCK as SEEN_FILES_LOCK,
    STORE_SUFFIX as STORE_SUFFIX,
    existing_root as existing_root,
    new_run_id as new_run_id,
    root_in_use as root_in_use,
    store_names as store_names,
    sweep_idle_root as sweep_idle_root,
)
from .scratch_db import escape_undecodable as escape_undecodable, scratch_tables as scratch_tables
from .urls import (
    is_url as is_url,
    open_storage as open_storage,
    parent_storage as parent_storage,
    path_or_url as path_or_url,
)
