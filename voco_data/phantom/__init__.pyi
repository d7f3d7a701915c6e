from . import cohort as cohort, domains as domains
from .patient.model import PatientModel as PatientModel, make_patient as make_patient
from .patient.pose import Scan as Scan, nearest_128th as nearest_128th
from .protocol import make_scan as make_scan
from .render import acquire as acquire, render_scan as render_scan
from .scan_files import DicomStyle as DicomStyle, write_series as write_series
