from . import id_mode as id_mode, pseudonyms as pseudonyms
from .burned_in import looks_like_text as looks_like_text
from .pseudonyms import Pseudonymiser as Pseudonymiser
from .text_search import TextSearch as TextSearch
