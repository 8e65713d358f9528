"""How the host's memory tells that it is full. Imports no torch."""

from __future__ import annotations

_TORCHS = "can't allocate memory"
"""In the RuntimeError that torch raises."""


def is_full(error: BaseException) -> bool:
    """Whether an error says that there is no room for what was asked for."""
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and _TORCHS in str(error))
