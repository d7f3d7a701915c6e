from .patient import forget_everywhere as forget_everywhere
from .records import Withdrawals as Withdrawals
from .taint import (
    TAINTED as TAINTED,
    inherit_mark as inherit_mark,
    is_tainted as is_tainted,
    read_mark as read_mark,
)
