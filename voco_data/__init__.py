"""CT archives in, cached stores of volumes out. Each package names its key types."""

from voco_data.cache_folders import provide_cache_folders

provide_cache_folders()  # before numba and Matplotlib are first imported, which read variables
