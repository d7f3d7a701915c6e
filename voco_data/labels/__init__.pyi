from .image_level import (
    ImageLabels as ImageLabels,
    read_image_labels as read_image_labels,
    write_image_labels as write_image_labels,
)
from .table import (
    Labels as Labels,
    join_labels as join_labels,
    read_labels as read_labels,
    write_labels as write_labels,
)
from .targets import (
    ORGAN_TARGETS as ORGAN_TARGETS,
    RSNA_TARGETS as RSNA_TARGETS,
    TargetGroup as TargetGroup,
    TargetTable as TargetTable,
)
