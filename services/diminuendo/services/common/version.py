"""The version of this program, and how both ends of a call tell each other theirs."""

from __future__ import annotations

import functools
from importlib.metadata import version

VERSION_KEY = "diminuendo-version"
"""Key of the metadata that says the version: of the caller in a call's, of the conductor in an answer's, where it is
initial or trailing metadata."""


@functools.cache
def own_version() -> str:
    """The version of this program, such as ``0.1.0``."""
    return version("diminuendo")
