"""How text in pixels is searched: a choice of the user. Imports nothing heavy."""

from __future__ import annotations

from typing import Literal, TypeAlias

TextSearch: TypeAlias = Literal["usual", "strict"]
"""With hardly a false alarm, or so that less text is missed."""
