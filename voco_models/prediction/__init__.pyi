from . import onnx_model as onnx_model
from .abstention import Abstention as Abstention, fit_abstention as fit_abstention
from .pages import (
    INDEX as INDEX,
    NOTICE as NOTICE,
    PAGES_FOLDER as PAGES_FOLDER,
    SeriesView as SeriesView,
    box_size_mm as box_size_mm,
    page_name as page_name,
    remove_other_pages as remove_other_pages,
    slice_z_mm as slice_z_mm,
    stored_slice as stored_slice,
    to_grey as to_grey,
    write_index as write_index,
    write_patient as write_patient,
)
from .png import data_uri as data_uri
from .tables import (
    make_series_lines as make_series_lines,
    make_submission as make_submission,
    make_table as make_table,
    read_patients as read_patients,
    write_table as write_table,
)
