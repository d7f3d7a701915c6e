from .document import GroupFinding as GroupFinding, make_document as make_document
from .writing import (
    FOLDER as FOLDER,
    ReportSummary as ReportSummary,
    check_installed as check_installed,
    write_structured_reports as write_structured_reports,
)
