from . import pins as pins
from .croissant import Publication as Publication
from .garbage import collect_garbage as collect_garbage
from .listing import describe_store as describe_store, list_stores as list_stores
from .nifti_export import export_volume as export_volume
from .pins import pins_of_store as pins_of_store, read_pins as read_pins
from .removal import (
    remove_objects as remove_objects,
    scan_store as scan_store,
    stale_temporaries as stale_temporaries,
    uncatalogued_records as uncatalogued_records,
)
from .store_card import write_store_card as write_store_card
from .verification import verify_store as verify_store
