from . import onnx_model as onnx_model
from .abstention import Abstention as Abstention, fit_abstention as fit_abstention
from .pages import (
    INDEX as INDEX,
    PAGES_FOLDER as PAGES_FOLDER,
    SeriesView as SeriesView,
    remove_other_pages as remove_other_pages,
    write_index as write_index,
    write_patient as write_patient,
)
from .tables import (
    make_series_lines as make_series_lines,
    make_submission as make_submission,
    make_table as make_table,
    write_table as write_table,
)
