from .patient import forget_patient as forget_patient
