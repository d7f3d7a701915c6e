from .patient import forget_everywhere as forget_everywhere
from .records import Withdrawals as Withdrawals
from .taint import is_tainted as is_tainted
