"""Formats: the forms that a layer can take, one file each."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from diminuendo.engine.formats.base import Factors, Format
from diminuendo.engine.formats.cp import Cp
from diminuendo.engine.formats.moments import Moments
from diminuendo.engine.formats.sides import Sides
from diminuendo.engine.formats.spatial import Spatial
from diminuendo.engine.formats.svd import Svd
from diminuendo.engine.formats.svd_input import SvdInput
from diminuendo.engine.formats.tt import TensorTrain
from diminuendo.engine.formats.tucker2 import Tucker2
from diminuendo.engine.formats.zero import Zero
from diminuendo.engine.plan import PlanError

__all__ = ["FORMATS", "Factors", "Format", "Moments", "Sides", "get"]

FORMATS: Mapping[str, Format] = MappingProxyType(
    {form.name: form for form in (Svd(), SvdInput(), Spatial(), Tucker2(), Cp(), TensorTrain(), Zero())}
)
"""Every format by name, in the order in which options are listed."""


def get(name: str) -> Format:
    """The format of a name; PlanError naming those that exist for an unknown one."""
    try:
        return FORMATS[name]
    except KeyError:
        raise PlanError(f"unknown format {name!r}; known: dense, {', '.join(FORMATS)}") from None
