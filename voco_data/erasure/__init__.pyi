from .journal import PatientTraces as PatientTraces
from .patient import (
    ForgetSummary as ForgetSummary,
    forget_patient as forget_patient,
    is_named as is_named,
)
from .run_files import IdMatcher as IdMatcher
from .search import find_patient as find_patient, lines_of_others as lines_of_others
