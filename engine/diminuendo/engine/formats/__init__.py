"""Formats: the forms that a layer can take, one file each."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from diminuendo.engine.formats.base import Factors, Format, Moments
from diminuendo.engine.formats.svd import Svd
from diminuendo.engine.formats.tucker2 import Tucker2
from diminuendo.engine.plan import PlanError

__all__ = ["FORMATS", "Factors", "Format", "Moments", "get"]

FORMATS: Mapping[str, Format] = MappingProxyType({form.name: form for form in (Svd(), Tucker2())})
"""Every format by name, in the order in which options are listed."""


def get(name: str) -> Format:
    """The format of a name; PlanError naming those that exist for an unknown one."""
    try:
        return FORMATS[name]
    except KeyError:
        raise PlanError(f"unknown format {name!r}; known: dense, {', '.join(FORMATS)}") from None
