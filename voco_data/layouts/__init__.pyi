from .index import index_archive as index_archive
from .registry import (
    AUTO as AUTO,
    layout_choices as layout_choices,
    public_layouts as public_layouts,
)
